"""Whether two splits share an image, a picture that looks the same, or a patient."""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from lcpdn_pl.data.checks.findings import (
    LEARNING_SPLITS,
    Finding,
    counted,
    listed,
    some,
)
from lcpdn_pl.data.checks.likeness import SIMILAR, candidates, similarity
from lcpdn_pl.data.checks.survey import THREADS
from lcpdn_pl.data.progress import Track, untracked

# What names tell: the first that matches. TCGA slides, BIDS, Radiopaedia's CT volumes; otherwise
# a name that ends in a number after a separator, and has another one before, is slice so many.
_GROUPS = (
    ("patient", re.compile(r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(?![0-9A-Z])")),
    ("patient", re.compile(r"(sub-[0-9A-Za-z]+)(?=_|$)")),
    ("patient", re.compile(r".*?(radiopaedia_\d+)_\d+_\d+")),
    ("volume", re.compile(r"(.*\d.*?)[-_ ]\d+$")),
)


def group_of(name: str) -> tuple[str, str] | None:
    """The patient or volume that a name tells, with the word for it.

    ``TCGA-XX-YYYY-...`` is a patient of TCGA, ``sub-LABEL_...`` one in BIDS naming,
    ``..radiopaedia_N_STUDY_STACK..`` one of Radiopaedia. Any other name that ends in a separator
    and a number, and holds a digit before, is a slice of the volume that the part before names:
    ``case11_10`` belongs to ``case11``, while ``covid_10`` tells nothing.
    """
    for kind, pattern in _GROUPS:
        if match := pattern.match(name):
            return kind, match[1]
    return None


def check_groups(samples: pd.DataFrame) -> list[Finding]:
    """Looks for a patient, or a volume, whose images are in two splits."""
    groups: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, split in zip(samples["name"], samples["split"], strict=True):
        if (group := group_of(name)) is not None and split in LEARNING_SPLITS:
            groups[group][split] = groups[group].get(split, 0) + 1
    findings = []
    for kind in sorted({kind for kind, _ in groups}):
        splits = {key: places for (other, key), places in groups.items() if other == kind}
        if kind == "volume" and len(splits) == 1:
            continue  # a prefix that all names share
        shared = [f"{key} ({counted(of)})" for key, of in splits.items() if len(of) > 1]
        findings += listed(
            "warning",
            f"leaks.{kind}",
            shared,
            kind,
            f"of {len(splits)}, as names tell, in more than one split",
            f"Keep all images of a {kind} in one split, or say with each figure that they are "
            "not: what is learned of one image helps with the next.",
        ) or [Finding("ok", f"leaks.{kind}", f"{some(len(splits), kind)}, each in one split")]
    return findings or [Finding("ok", "leaks.names", "names tell neither patients nor volumes")]


def check_copies(samples: pd.DataFrame) -> list[Finding]:
    """Looks for images that are there twice, pixel for pixel, whatever their file formats."""
    known = _readable(samples)
    across, within = [], []
    for _, rows in known.groupby("digest", sort=False):
        splits = rows["split"].tolist()
        copies = " = ".join(map(_place, rows["name"], splits))
        if len(set(splits)) > 1:
            across.append(copies)
        elif len(splits) > 1:
            within.append(copies)
    return [
        *listed(
            "error",
            "leaks.copies",
            across,
            "image",
            "in two splits with the same pixels",
            "Remove it from all splits but one, otherwise figures say how well it is remembered.",
        ),
        *listed(
            "warning",
            "leaks.copies_within",
            within,
            "image",
            "more than once in one split",
            "Keep one of them: copies weigh twice.",
        ),
    ] or [Finding("ok", "leaks.copies", "no image is there twice")]


def check_twins(samples: pd.DataFrame, track: Track = untracked) -> list[Finding]:
    """Looks for pictures that differ but look the same: cut, brightened, compressed, resized."""
    known = _readable(samples).drop_duplicates("digest")
    names, splits = known["name"].tolist(), known["split"].tolist()
    thumbnails = known["thumbnail"].tolist()
    # Slices of one volume look alike, which is worth saying only of two splits.
    families = [str(group_of(name) or name) for name in names]
    pairs = candidates(thumbnails, splits, families) if thumbnails else []
    with ThreadPoolExecutor(THREADS) as pool:
        scores = pool.map(lambda pair: similarity(*(thumbnails[at] for at in pair)), pairs)
        scored = zip(pairs, track(scores, len(pairs), "Comparing pictures"), strict=True)
        alike = sorted(((score, pair) for pair, score in scored if score >= SIMILAR), reverse=True)
    across: list[str] = []
    within: list[str] = []
    met: set[int] = set()
    for score, (one, other) in alike:
        if {one, other} <= met:
            continue  # both look still more like others
        met |= {one, other}
        text = f"{_place(names[one], splits[one])} ~ {_place(names[other], splits[other])}"
        (across if splits[one] != splits[other] else within).append(f"{text}: {score:.3f}")
    return [
        *listed(
            "warning",
            "leaks.twins",
            across,
            "pair",
            "of pictures in two splits that look the same",
            "Look at them: copies, or neighbouring slices of a volume, belong in one split.",
        ),
        *listed(
            "note",
            "leaks.twins_within",
            within,
            "pair",
            "of pictures in one split that look the same",
            "Look at them: copies weigh twice.",
        ),
    ] or [Finding("ok", "leaks.twins", "no two pictures look the same")]


def _readable(samples: pd.DataFrame) -> pd.DataFrame:
    return samples[samples["digest"].astype(bool) & samples["split"].isin(LEARNING_SPLITS)]


def _place(name: str, split: str) -> str:
    return f"{name} ({split})"
