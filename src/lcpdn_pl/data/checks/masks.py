"""Masks: their values, their sizes and places, and how much of them is foreground."""

from collections import Counter
from collections.abc import Collection

import pandas as pd

from lcpdn_pl.data.checks.findings import Finding, counted, counts, listed, some
from lcpdn_pl.data.checks.outlines import displacement

_MOST_VALUES = 8  # a mask with more was smeared, or numbers its objects


def check_masks(
    samples: pd.DataFrame, foreground: Collection[int] | None = None, ignore: int | None = None
) -> list[Finding]:
    """Tells values and foreground of the masks, and looks for those that do not fit.

    Args:
        samples: Table after `survey`.
        foreground: Values that mean foreground; None takes all but 0 and `ignore`.
        ignore: Value of pixels to ignore.
    """
    known = samples[samples["mask_size"].notna()]
    if known.empty:
        return []
    return [
        *_values(known),
        *(_smeared(known) if foreground is None else _unexpected(known, foreground, ignore)),
        *_sizes(known),
        *_shifts(known),
        *_foreground(known),
    ]


def _total(known: pd.DataFrame) -> Counter[int]:
    total: Counter[int] = Counter()
    for values in known["values"]:
        total.update(values)
    return total


def _values(known: pd.DataFrame) -> list[Finding]:
    total = _total(known)
    common = sorted(value for value, _ in total.most_common(_MOST_VALUES))
    told = [f"{value} ({total[value] / total.total():.2%})" for value in common]
    more = f" and {len(total) - len(common)} more" if len(total) > len(common) else ""
    kinds = counted(counts(known["mask_kind"]))
    text = f"{some(len(known), 'mask')} ({kinds}), values {', '.join(told)}{more}"
    figures = {str(value): total[value] for value in sorted(total)}
    jpegs = known.loc[known["mask_kind"].str.startswith("JPEG"), "name"].tolist()
    remedy = "JPEG smears values: export them again as PNG."
    return [
        Finding("ok", "masks.values", text, figures=figures),
        *listed("warning", "masks.lossy", jpegs, "mask", "saved as JPEG", remedy),
    ]


def _smeared(known: pd.DataFrame) -> list[Finding]:
    """Many values where nobody said which ones mean foreground."""
    many = [
        f"{name} ({len(values)})"
        for name, values in zip(known["name"], known["values"], strict=True)
        if len(values) > _MOST_VALUES
    ]
    return listed(
        "warning",
        "masks.smeared",
        many,
        "mask",
        f"with more than {_MOST_VALUES} values, of which all but 0 count as foreground",
        "Masks saved as JPEG or resized with smoothing are the usual cause: export them again as "
        "PNG. If each object has its own value, all is well; --foreground names values.",
    )


def _unexpected(
    known: pd.DataFrame, foreground: Collection[int], ignore: int | None
) -> list[Finding]:
    allowed = sorted({0, *foreground} | (set() if ignore is None else {ignore}))
    items = []
    for path, values in zip(known["mask"], known["values"], strict=True):
        if wrong := {value: pixels for value, pixels in values.items() if value not in allowed}:
            told = [f"{value} ({some(pixels, 'pixel')})" for value, pixels in wrong.items()]
            more = f" and {len(told) - _MOST_VALUES} more" if len(told) > _MOST_VALUES else ""
            items.append(f"{path}: {', '.join(told[:_MOST_VALUES])}{more}")
    return listed(
        "error",
        "masks.unexpected",
        items,
        "mask",
        f"with values other than {', '.join(map(str, allowed))}",
        "Export them again as PNG, without smoothing; if the values are meant, name them in "
        "data.foreground (here --foreground).",
    )


def _sizes(known: pd.DataFrame) -> list[Finding]:
    items = [
        f"{name}: image {size[0]}x{size[1]}, mask {mask[0]}x{mask[1]}"
        for name, size, mask in zip(known["name"], known["size"], known["mask_size"], strict=True)
        if size is not None and size != mask
    ]
    message = "of another size (height x width) than the image"
    remedy = "Export them again at the image's size."
    return listed("error", "masks.sizes", items, "mask", message, remedy)


def _shifts(known: pd.DataFrame) -> list[Finding]:
    """Splits whose masks would fit their images better elsewhere."""
    findings = []
    for split, rows in known[known["fit"].notna()].groupby("split", sort=False):
        if (better := displacement(rows["fit"].tolist())) is None:
            continue
        down, right = better
        moves = [(down, "down", "up"), (right, "to the right", "to the left")]
        told = [f"{abs(by):.0%} {ahead if by > 0 else back}" for by, ahead, back in moves if by]
        findings.append(
            Finding(
                "warning",
                "masks.shifted",
                f"{split}: the outlines of {some(len(rows), 'mask')} would lie on edges of their "
                f"images {' and '.join(told)} from where they are",
                "Look at them with --sheet: were images or masks cut, padded or moved alone?",
                figures={"split": str(split), "down": round(down, 4), "right": round(right, 4)},
            )
        )
    return findings


def _foreground(known: pd.DataFrame) -> list[Finding]:
    shares = known["foreground"].astype(float)
    by_split = shares.groupby(known["split"], sort=False).mean()
    told = ", ".join(f"{split} {share:.2%}" for split, share in by_split.items())
    text = f"foreground: {told}; of single masks {shares.min():.2%} to {shares.max():.2%}"
    figures = {str(split): round(float(share), 6) for split, share in by_split.items()}
    empty, full = (known.loc[shares == share, "name"].tolist() for share in (0, 1))
    return [
        Finding("ok", "masks.foreground", text, figures=figures),
        *listed(
            "warning",
            "masks.empty",
            empty,
            "mask",
            "without foreground",
            "Look at them: nothing to find, or not annotated? An empty prediction scores "
            "empty_score there.",
        ),
        *listed(
            "warning",
            "masks.full",
            full,
            "mask",
            "that is nothing but foreground",
            "Look at them: is 0 the background?",
        ),
    ]
