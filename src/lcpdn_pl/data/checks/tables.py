"""Files, splits, protocols, images and names."""

import re
from typing import Literal

import pandas as pd

from lcpdn_pl.data.checks.findings import (
    LEARNING_SPLITS,
    Finding,
    counted,
    counts,
    listed,
    some,
)
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.protocols import protocol_names, read_protocol

_MOST_SIZES = 8


def check_files(samples: pd.DataFrame, problems: Problems, remedy: str) -> list[Finding]:
    """Tells what is missing or too much on disk, and what cannot be read.

    Args:
        samples: Table after `survey`.
        problems: What was noted when the files were listed.
        remedy: What to do about those.
    """
    findings = [
        Finding(
            "error",
            "files.listing",
            f"{len(items)} {kind}",
            remedy,
            tuple(items),
            {"count": len(items)},
        )
        for kind, items in problems.kinds.items()
    ]
    troubles = [trouble for row in samples["troubles"] for trouble in row]
    findings += listed("error", "files.unreadable", troubles, "file", "that cannot be used")
    return findings or [
        Finding("ok", "files.listing", f"{some(len(samples), 'sample')}, all files readable")
    ]


def check_splits(samples: pd.DataFrame) -> list[Finding]:
    """Counts the samples of each split; those of training and validation must not lack."""
    found = counts(samples["split"])
    findings = [Finding("ok", "splits.counts", counted(found) or "no sample", figures=found)]
    missing = [split for split in LEARNING_SPLITS if split not in found]
    learns = found.keys() & {"train", "val"} or not found
    return findings + listed(
        "error" if learns and missing != ["test"] else "note",
        "splits.missing",
        missing,
        "split",
        f"without samples: {', '.join(missing)}",
        "lcpdn fit needs train and val, lcpdn test needs test: give each of them images.",
    )


def check_protocol(samples: pd.DataFrame, protocol: pd.DataFrame, name: str) -> list[Finding]:
    """Compares the names on disk with those that a run's protocol lists.

    Args:
        samples: Samples table of everything on disk.
        protocol: Table with the columns name and split.
        name: The protocol's name.
    """
    return _compare(
        samples,
        protocol,
        f"protocol {name}",
        "error",
        "Get the full data set, see data/README.md, or use protocol: full.",
    )


def check_known_protocols(samples: pd.DataFrame) -> list[Finding]:
    """Tells which of the package's protocols can be used, if the data is of one of its sets."""
    findings = []
    for name in protocol_names():
        protocol = read_protocol(name)
        if protocol["name"].isin(samples["name"]).any():
            remedy = "This protocol needs them: see data/README.md for the full data set."
            findings += _compare(samples, protocol, f"protocol {name}", "note", remedy)
    return findings


def _compare(
    samples: pd.DataFrame,
    protocol: pd.DataFrame,
    title: str,
    level: Literal["note", "error"],
    remedy: str,
) -> list[Finding]:
    missing = protocol.loc[~protocol["name"].isin(samples["name"]), "name"].tolist()
    wanted = counts(protocol["split"])
    told = f"{title}: {counted(wanted)}"
    if not missing:
        return [Finding("ok", "protocol.names", f"{told}; all on disk", figures=wanted)]
    text = f"{told}; {len(missing)} of these {len(protocol)} images are not on disk"
    return [Finding(level, "protocol.names", text, remedy, tuple(missing), wanted)]


def check_images(samples: pd.DataFrame, image_size: int | None = None) -> list[Finding]:
    """Tells sizes and kinds of the images, and what reading and resizing do to them.

    Args:
        samples: Table after `survey`.
        image_size: Side that a run resizes images to.
    """
    known = samples[samples["size"].notna()]
    if known.empty:
        return []
    sizes, kinds = known["size"], known["kind"]

    def note(chosen: pd.Series, key: str, message: str, remedy: str = "") -> list[Finding]:
        names = known.loc[chosen.astype(bool), "name"].tolist()
        return listed("note", f"images.{key}", names, "image", message, remedy)

    return [
        *_tally("sizes", sizes.map(lambda size: f"{size[0]}x{size[1]}"), " (height x width)"),
        *_tally("kinds", kinds),
        *note(
            sizes.map(lambda size: size[0] != size[1]),
            "oblong",
            "stretched to a square",
            "Cut or pad them, if proportions matter.",
        ),
        *note(
            sizes.map(lambda size: min(size) < (image_size or 0)),
            "enlarged",
            f"smaller than image_size: {image_size}, and enlarged",
        ),
        *note(
            kinds.str.contains(" I;16"),
            "deep",
            "with 16 bits, of which 65535 becomes white",
            "Window scans that fill only some of the bits beforehand: they come out dark.",
        ),
        *note(kinds.str.contains(" (?:RGBA|LA|PA)$"), "alpha", "whose alpha channel is dropped"),
    ]


def _tally(key: str, values: "pd.Series[str]", unit: str = "") -> list[Finding]:
    found = dict(values.value_counts())
    told = [f"{value} ({number})" for value, number in list(found.items())[:_MOST_SIZES]]
    more = f" and {len(found) - len(told)} more" if len(found) > len(told) else ""
    figures = {str(value): int(number) for value, number in found.items()}
    text = f"{key}: {', '.join(told)}{more}{unit}"
    return [Finding("ok", f"images.{key}", text, figures=figures)]


def check_names(samples: pd.DataFrame) -> list[Finding]:
    """Looks for names that occur twice, or that other tools stumble over."""
    twice = [
        f"{name} ({', '.join(rows['image'])})"
        for name, rows in samples[samples["name"].duplicated(keep=False)].groupby("name")
    ]
    names = samples["name"].tolist()
    spaced = [name for name in names if re.search(r"\s", name)]
    foreign = [name for name in names if not name.isascii()]
    rename = "Rename one image of each, or fill the column name: results are listed by it."
    return [
        *(listed("error", "names.twice", twice, "name", "of more than one image", rename)),
        *(listed("note", "names.spaces", spaced, "name", "with spaces")),
        *(listed("note", "names.letters", foreign, "name", "with letters beyond ASCII")),
    ] or [Finding("ok", "names.unique", f"{some(len(names), 'name')}, each once")]
