"""The side words of a report: what they name, and how they change when the image is turned.

`left`, `upper` and so on are sides of the IMAGE. Understood are runs of left, right, upper, lower,
top, bottom and middle (`lower left`, `upper middle left lung`), in any case. Whatever else may name
a side (`apex`, `clockwise`, `leftmost`, a misspelt `rught`) makes a report one that cannot be
rewritten: nothing is guessed. Beyond this grammar are `right` in the sense of correct and `left` in
the sense of remaining, which are taken for sides.
"""

import re
from difflib import get_close_matches
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.errors import ConfigError

Transform = Literal["hflip", "vflip", "rot90", "rot180", "rot270", "transpose"]
"""Flip left-right or upside down, counter-clockwise rotation, exchange of rows and columns."""

TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

_SIDEWAYS = {"left": "right", "right": "left"}
_UPSIDE_DOWN = {"upper": "lower", "lower": "upper", "top": "bottom", "bottom": "top"}
_NEW_WORDS: dict[Transform, dict[str, str]] = {
    "hflip": _SIDEWAYS,
    "vflip": _UPSIDE_DOWN,
    "rot90": {"upper": "left", "left": "lower", "lower": "right", "right": "upper"},
    "rot180": _SIDEWAYS | _UPSIDE_DOWN,
    "rot270": {"upper": "right", "right": "lower", "lower": "left", "left": "upper"},
    "transpose": {"upper": "left", "left": "upper", "lower": "right", "right": "lower"},
}
_OPPOSITES = {
    "sparsely": "densely",
    "densely": "sparsely",
    "evenly": "irregularly",
    "irregularly": "evenly",
}
_OPPOSITE = re.compile(rf"\b(?:{'|'.join(_OPPOSITES)})\b", re.IGNORECASE)
_EDGES = {"top": "upper", "bottom": "lower"}  # have no sideways counterpart of their own
_LEVELS = frozenset({*_UPSIDE_DOWN, "middle", "higher"})

_WORD = r"(?:left|right(?!\s+away)|upper|lower|top|bottom|middle)"
# `higher` is a level only before another word of place: a density is higher, too.
_RUN = re.compile(rf"\b(?:higher\s+)?{_WORD}(?:[\s-]+{_WORD})*\b", re.IGNORECASE)
_LUNG_LEVEL = r"(?:(?:all|higher|upper|middle|lower)\s+)"
# Both lungs after a comma. `lower left and right lung` is none: its level may belong to both.
_PAIR = re.compile(
    rf"(?P<start>^|[,;:]\s*)(?={_LUNG_LEVEL}*\w+\s+lungs?\s|{_LUNG_LEVEL}+\w+\s+and\s+{_LUNG_LEVEL})"
    rf"(?P<one>{_LUNG_LEVEL}*(?P<side>left|right))"
    r"(?P<between>(?:\s+lungs?)?\s+and\s+)"
    rf"(?P<other>{_LUNG_LEVEL}*(?!(?P=side))(?:left|right))"
    r"(?=\s+lungs?\s*(?:[.,;(]|$))"
)
# Organs that stand upright in every image and come in two.
_CHEST = re.compile(
    r"\b(?:lungs?|lobes?|pulmonary|chest|thora\w+|pneumon\w+|(?:uni|bi)lateral)\b", re.IGNORECASE
)
_UNILATERAL = re.compile(r"\bunilateral\b", re.IGNORECASE)
_HANDED = re.compile(r"\b(?:left|right)[\s-]+(?:hand|sided)", re.IGNORECASE)
_NOT_UNDERSTOOD = re.compile(
    r"\b(?:(?:left|right|upper|lower|top|bottom|up|down)-?(?:most|wards?)"
    r"|(?:(?:ipsi|contra)?lateral|medial|superior|inferior|anterior|posterior|dorsal|ventral)(?:ly)?"
    r"|apex|apices|apical|bas(?:e|es|al)|quadrants?|(?:anti|counter)?-?clockwise|o['’]clock"
    r"|horizontal(?:ly)?|vertical(?:ly)?|diagonal(?:ly)?|above|below|beneath"
    r"|north\w*|south\w*|east\w*|west\w*)\b",
    re.IGNORECASE,
)
_LONG_WORDS = ("left", "right", "upper", "lower", "middle", "bottom")  # long enough to misspell
_LOOK_ALIKES = ("bright", "eight", "light", "might", "night", "sight", "tight", "upright", "slower")


class Zone(NamedTuple):
    """A place that a report names."""

    levels: frozenset[str]
    """Of `upper`, `middle` and `lower`; empty where the report names none."""
    side: Literal["left", "right"] | None


def rewrite_sides(report: str, transform: Transform) -> str:
    """Says of a turned image what the report says of the image.

    Case and spacing are kept, and so is each data set's order of words: levels from upper to lower,
    the left lung before the right one. What undoes the transform gives the report back. Unilateral
    and bilateral name lungs, not sides of the image, and stay.

    Args:
        report: The report of the image before it is turned.
        transform: What is done to the image. Rotations are counter-clockwise, as in
            :func:`numpy.rot90`.

    Returns:
        The report of the turned image; the same text where no side is named.

    Raises:
        ConfigError: The transform is unknown, or the turned image cannot be described in the
            report's words: a lung on its side, or wording that is not understood.
    """
    if transform not in TRANSFORMS:
        raise ConfigError(
            f"expected one of the transforms {', '.join(TRANSFORMS)}, found {transform!r}. "
            "Choose one of them."
        )
    if transform not in _expressible(report):
        raise ConfigError(
            f"expected a report whose side words can follow {transform}, found {report!r}. Leave "
            "the image as it is; allowed_transforms() says what may be done to it."
        )
    turned = _RUN.sub(lambda run: _turned_run(run[0], transform), report)
    if transform in ("hflip", "rot180"):
        turned = _PAIR.sub(r"\g<start>\g<other>\g<between>\g<one>", turned)
    return turned


def contradict(report: str) -> str:
    """Says the opposite of a report, to measure what it is worth.

    Left and right, upper and lower change places, as after half a turn, and so do sparse and dense,
    even and irregular.

    Returns:
        The opposite; the same text where it names nothing that has one, such as all of both lungs,
        or where its wording is not understood.
    """
    if "rot180" in _expressible(report):
        report = rewrite_sides(report, "rot180")
    return _OPPOSITE.sub(lambda word: _OPPOSITES[word[0].lower()], report)


def allowed_transforms(report: str) -> frozenset[Transform]:
    """The transforms after which the image is still a likely one and its report can be rewritten.

    Empty for wording that is not understood. Of a chest only the mirror image is allowed: one that
    lies on its side or stands on its head never comes, though `rewrite_sides` could describe it.
    """
    plausible = {"hflip"} if _CHEST.search(report) else set(TRANSFORMS)
    return _expressible(report) & plausible


def side_words(report: str) -> frozenset[Zone]:
    """The places that a report names; none for wording that is not understood."""
    runs = _runs(report)
    if not _understood(report, runs):
        return frozenset()
    zones = frozenset(
        Zone(
            frozenset(_upper_or_lower(word) for word in run if word in _LEVELS),
            "left" if "left" in run else "right" if "right" in run else None,
        )
        for run in runs
    )
    if _UNILATERAL.search(report) and {"left", "right"} <= {zone.side for zone in zones}:
        # MosMedData+ writes `left lung and middle right lung` for the right lung alone.
        return frozenset(zone for zone in zones if zone.levels) or zones
    return zones


def agrees(report: str, mask: NDArray[np.uint8]) -> bool | None:
    """Whether the foreground lies where the report says.

    In a chest, a single side has to have more foreground than the other one, and either of two
    some foreground; levels are not looked at, since those of a lung are not those of the image.
    In other images, the halves and quarters named have to be denser than those opposite.

    Args:
        report: The report of the image.
        mask: [H, W], 1 for foreground.

    Returns:
        The answer; None if the report names no side, or opposite ones.
    """
    zones, foreground = side_words(report), mask == 1
    if _CHEST.search(report):
        sides = {zone.side for zone in zones} - {None}
        left, right = (
            int(foreground[_region(Zone(frozenset(), side), mask.shape)].sum())
            for side in ("left", "right")
        )
        if len(sides) == 2:
            return left > 0 and right > 0
        return None if not sides else left > right if "left" in sides else right > left
    named = np.zeros(mask.shape, np.bool_)
    for zone in zones:
        named |= _region(zone, mask.shape)
    opposite = named[::-1, ::-1] & ~named
    if not opposite.any():
        return None
    return bool(foreground[named].mean() > foreground[opposite].mean())


def _runs(report: str) -> list[list[str]]:
    """The words of each run, in lower case."""
    return [re.split(r"[\s-]+", run.lower()) for run in _RUN.findall(report)]


def _understood(report: str, runs: list[list[str]]) -> bool:
    misspelt = any(
        get_close_matches(word, _LONG_WORDS, 1, 0.8)
        for word in set(re.findall("[a-z]+", report.lower())) - {*_LONG_WORDS, *_LOOK_ALIKES}
    )
    two_sided = any("left" in run and "right" in run for run in runs)
    return not (misspelt or two_sided or _NOT_UNDERSTOOD.search(report))


def _expressible(report: str) -> frozenset[Transform]:
    """The transforms under which the report can be rewritten."""
    runs = _runs(report)
    if not _understood(report, runs):
        return frozenset()
    if not runs:
        return frozenset(TRANSFORMS)
    if any("higher" in run for run in runs):
        return frozenset({"hflip"})
    # `upper and lower left` would become `left and lower right`: all halves, or all corners.
    halves = all(len(run) == 1 and run[0] not in _EDGES for run in runs)
    corners = all(
        len(run) == 2 and "middle" not in run and sum(word in _SIDEWAYS for word in run) == 1
        for run in runs
    )
    if (halves or corners) and not _CHEST.search(report) and not _HANDED.search(report):
        return frozenset(TRANSFORMS)
    return frozenset({"hflip", "vflip", "rot180"})


def _turned_run(run: str, transform: Transform) -> str:
    old, gaps = re.split(r"[\s-]+", run), re.findall(r"[\s-]+", run)
    new = _turned_words([word.lower() for word in old], transform)
    cased = [_in_case_of(*words) for words in zip(old, new, strict=True)]
    return "".join(word + gap for word, gap in zip(cased, [*gaps, ""], strict=True))


def _turned_words(words: list[str], transform: Transform) -> list[str]:
    table = _NEW_WORDS[transform]
    if transform in ("hflip", "vflip", "rot180"):
        new = [table.get(word, word) for word in words]
        if transform == "hflip":
            return new
        # Levels are named from upper to lower: `upper middle` becomes `middle lower`.
        stretches = [list(stretch) for _, stretch in groupby(new, _LEVELS.__contains__)]
        return [word for stretch in stretches for word in reversed(stretch)]
    # A quarter turn exchanges the two words of a corner, and with them their order.
    new = [table.get(word, word) for word in map(_upper_or_lower, reversed(words))]
    edges = {level: edge for edge, level in _EDGES.items()} if _EDGES.keys() & set(words) else {}
    return [edges.get(word, word) for word in new]


def _upper_or_lower(level: str) -> str:
    return {**_EDGES, "higher": "upper"}.get(level, level)


def _in_case_of(old: str, new: str) -> str:
    if old.isupper():
        return new.upper()
    return new.capitalize() if old[0].isupper() else new


def _region(zone: Zone, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A zone's pixels; a line in the middle of an odd size is in neither half."""
    height, width = shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    parts = {
        "upper": rows < height // 2,
        "middle": (rows >= height // 4) & (rows < height - height // 4),
        "lower": rows >= height - height // 2,
        "left": columns < width // 2,
        "right": columns >= width - width // 2,
    }
    region = np.full(shape, not zone.levels)
    for level in zone.levels:
        region |= parts[level]
    return region if zone.side is None else region & parts[zone.side]
