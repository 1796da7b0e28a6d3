"""Reports that follow their image when it is turned, or contradict it; whether a mask agrees.

What is not understood (:mod:`lcpdn_pl.side_words`) cannot be rewritten.
"""

import re
from itertools import groupby
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.side_words import (
    EDGES,
    LEVELS,
    RUN,
    Zone,
    is_understood,
    runs,
    side_words,
    upper_or_lower,
)

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
_HANDED = re.compile(r"\b(?:left|right)[\s-]+(?:hand|sided)", re.IGNORECASE)


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
    turned = RUN.sub(lambda run: _turned_run(run[0], transform), report)
    if transform in ("hflip", "rot180"):
        turned = _PAIR.sub(r"\g<start>\g<other>\g<between>\g<one>", turned)
    return turned


def contradict(report: str) -> str:
    """Says the opposite of a report, to measure what it is worth.

    Left and right, upper and lower change places, as after half a turn or, where that names the
    same places, such as of `upper left lung and lower right lung`, as after a flip; and so do
    sparse and dense, even and irregular.

    Returns:
        The opposite; the same text where it names nothing that has one, such as all of both lungs,
        or where its wording is not understood.
    """
    turns: tuple[Transform, ...] = ("rot180", "hflip", "vflip")
    turned = (rewrite_sides(report, turn) for turn in turns if turn in _expressible(report))
    places = side_words(report)
    report = next((other for other in turned if side_words(other) != places), report)
    return _OPPOSITE.sub(lambda word: _OPPOSITES[word[0].lower()], report)


def allowed_transforms(report: str) -> frozenset[Transform]:
    """The transforms after which the image is still a likely one and its report can be rewritten.

    Empty for wording that is not understood. Of a chest only the mirror image is allowed: one that
    lies on its side or stands on its head never comes, though `rewrite_sides` could describe it.
    """
    plausible = {"hflip"} if _CHEST.search(report) else set(TRANSFORMS)
    return _expressible(report) & plausible


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


def _expressible(report: str) -> frozenset[Transform]:
    """The transforms under which the report can be rewritten."""
    if not is_understood(report):
        return frozenset()
    words = runs(report)
    if not words:
        return frozenset(TRANSFORMS)
    if any("higher" in run for run in words):
        return frozenset({"hflip"})
    # `upper and lower left` would become `left and lower right`: all halves, or all corners. A
    # middle is one between above and below, and has no word where it stands upright.
    halves = all(len(run) == 1 and run[0] not in {*EDGES, "middle"} for run in words)
    corners = all(
        len(run) == 2 and "middle" not in run and sum(word in _SIDEWAYS for word in run) == 1
        for run in words
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
        stretches = [list(stretch) for _, stretch in groupby(new, LEVELS.__contains__)]
        return [word for stretch in stretches for word in reversed(stretch)]
    # A quarter turn exchanges the two words of a corner, and with them their order.
    new = [table.get(word, word) for word in map(upper_or_lower, reversed(words))]
    edges = {level: edge for edge, level in EDGES.items()} if EDGES.keys() & set(words) else {}
    return [edges.get(word, word) for word in new]


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
