"""Reports: whether they are there, how long they are, and whether they fit the masks."""

from collections.abc import Callable

import pandas as pd

from lcpdn_pl.data.checks.findings import Finding, Level, counts, listed, some

TokenCounter = Callable[[str], int]

TRUSTED = 0.75
"""Share of the reports that name a side with which the mask has to agree. In LViT's sets 90 % and
more do; with the reports of other images about half would."""

_FEW = 5  # reports of which a share says nothing


def check_reports(samples: pd.DataFrame) -> list[Finding]:
    """Looks for reports that are missing, and counts those that differ."""
    texts = samples["text"]
    distinct = counts(texts[texts != ""])
    figures = {"reports": sum(distinct.values()), "distinct": len(distinct)}
    same = len(distinct) == 1 and figures["reports"] > 1
    empty = samples.loc[texts == "", "name"].tolist()
    foreign = [
        text for text in distinct if any(not sign.isascii() and sign.isalpha() for sign in text)
    ]
    return [
        Finding(
            "warning" if same else "ok",
            "reports.distinct",
            f"{some(figures['reports'], 'report')}, {figures['distinct']} distinct",
            "Describe each image: a text that all share tells nothing." if same else "",
            figures=figures,
        ),
        *listed(
            "error",
            "reports.empty",
            empty,
            "sample",
            "without a report",
            "Write a line for each, and see that the names in the report table match.",
        ),
        *listed(
            "note",
            "reports.letters",
            foreign,
            "distinct report",
            "with letters that English does not have",
            "The text encoders were trained on English: translate what is in another language.",
        ),
    ]


def check_lengths(
    samples: pd.DataFrame, encoder: str, count: TokenCounter, limit: int
) -> list[Finding]:
    """Counts the tokens of each distinct report.

    Args:
        samples: Samples table.
        encoder: Name of the text encoder.
        count: Its number of tokens of a report.
        limit: Tokens after which it cuts a report.
    """
    lengths = {text: count(text) for text in samples["text"].unique() if text}
    if not lengths:
        return []
    least, most, median = min(lengths.values()), max(lengths.values()), pd.Series(lengths).median()
    told = f"{encoder}: {least} to {most} tokens, median {median:g}; it reads {limit}"
    figures = {"least": least, "median": median, "most": most, "limit": limit}
    cut = [
        f"{name} ({lengths[text]})"
        for name, text in zip(samples["name"], samples["text"], strict=True)
        if lengths.get(text, 0) > limit
    ]
    if not cut:
        return [Finding("ok", "reports.tokens", told, figures=figures)]
    text = f"{told}, so that {some(len(cut), 'report')} will be cut"
    remedy = "Put first what matters, or raise max_tokens of the network."
    return [Finding("warning", "reports.tokens", text, remedy, tuple(cut), figures)]


def check_sides(samples: pd.DataFrame) -> list[Finding]:
    """Measures in each split how often the foreground lies where the report says."""
    named = samples[samples["agrees"].notna()]
    findings = []
    for split, rows in named.groupby("split", sort=False):
        share = float(rows["agrees"].astype(float).mean())
        mirrored = float(rows["agrees_mirrored"].astype(float).mean())
        level: Level = "ok" if share >= TRUSTED else "warning" if len(rows) >= _FEW else "note"
        remedy = "Do the names in the report table match the images, and their masks the images?"
        if mirrored > share:
            remedy = f"In a mirror {mirrored:.0%} do: are left and right the patient's sides?"
        findings.append(
            Finding(
                level,
                "sides.agree",
                f"{split}: in {share:.0%} of {some(len(rows), 'report')} that name a side, the "
                "mask agrees",
                "" if level == "ok" else remedy,
                tuple(rows.loc[~rows["agrees"].astype(bool), "name"]),
                {"split": str(split), "reports": len(rows), "share": round(share, 4)},
            )
        )
    return findings or [Finding("note", "sides.none", "no report names a side of the image")]
