"""The side words of a report: `left`, `upper` and so on, sides of the IMAGE.

Understood are runs of left, right, upper, lower, top, bottom and middle (`lower left`, `upper
middle left lung`), in any case. Whatever else may name a side (`apex`, `clockwise`, `leftmost`, a
misspelt `rught`) makes a report one that is not understood: nothing is guessed. Beyond this grammar
are `right` in the sense of correct and `left` in the sense of remaining, which are taken for sides.
"""

import re
from difflib import get_close_matches
from typing import Literal, NamedTuple

EDGES = {"top": "upper", "bottom": "lower"}
"""Words of an edge, and of the level that they stand for."""
LEVELS = frozenset({"upper", "middle", "lower", *EDGES, "higher"})
"""Words that name a level."""

_WORD = r"(?:left|right(?!\s+away)|upper|lower|top|bottom|middle)"
# `higher` is a level only before another word of place: a density is higher, too.
RUN = re.compile(rf"\b(?:higher\s+)?{_WORD}(?:[\s-]+{_WORD})*\b", re.IGNORECASE)
"""Side words that stand together name one place."""

_UNILATERAL = re.compile(r"\bunilateral\b", re.IGNORECASE)
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


def runs(report: str) -> list[list[str]]:
    """The words of each run, in lower case."""
    return [re.split(r"[\s-]+", run.lower()) for run in RUN.findall(report)]


def is_understood(report: str) -> bool:
    """Whether this grammar has all that may name a side, at most one of left and right a run."""
    misspelt = any(
        get_close_matches(word, _LONG_WORDS, 1, 0.8)
        for word in set(re.findall("[a-z]+", report.lower())) - {*_LONG_WORDS, *_LOOK_ALIKES}
    )
    two_sided = any("left" in run and "right" in run for run in runs(report))
    return not (misspelt or two_sided or _NOT_UNDERSTOOD.search(report))


def side_words(report: str) -> frozenset[Zone]:
    """The places that a report names; none for wording that is not understood."""
    if not is_understood(report):
        return frozenset()
    zones = frozenset(
        Zone(
            frozenset(upper_or_lower(word) for word in run if word in LEVELS),
            "left" if "left" in run else "right" if "right" in run else None,
        )
        for run in runs(report)
    )
    if _UNILATERAL.search(report) and {"left", "right"} <= {zone.side for zone in zones}:
        # MosMedData+ writes `left lung and middle right lung` for the right lung alone.
        return frozenset(zone for zone in zones if zone.levels) or zones
    return zones


def upper_or_lower(level: str) -> str:
    """The level that a word of it stands for: `upper` for `top` and `higher`."""
    return {**EDGES, "higher": "upper"}.get(level, level)
