"""The eight attributes that C2FVL reads in place of a report, parsed from the report's sentence."""

import re
from typing import NamedTuple

from lcpdn_pl.errors import DataError

LEVELS = ("upper", "middle", "lower")

_NUMBERS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
# Slips of the pen in four sentences of QaTa-COV19; no others are forgiven.
_SLIPS = {"uooer": "upper", "mmiddle": "middle", "eft": "left", "rught": "right", "(wait": ""}
_LEVEL_WORDS = {"all": LEVELS, "higher": ("upper",)} | {level: (level,) for level in LEVELS}

_SENTENCE = re.compile(
    r"(?P<extent>uni|bi)lateral pulmonary infection, ?"
    r"(?P<number>\w+) infected areas?, ?"
    r"(?P<places>[a-z ]+?)[. ]*"
)
_PLACE = re.compile(
    rf"(?P<levels>(?:(?:{'|'.join(_LEVEL_WORDS)}) )*)(?P<side>left|right)(?: lung)?"
)
_NOTHING = re.compile(r"no pulmonary infection\.?")


class Attributes(NamedTuple):
    """What a sentence says, in C2FVL's order; truth is 0 or 1, the number of areas is itself."""

    bilateral: int
    areas: int
    upper_left: int
    middle_left: int
    lower_left: int
    upper_right: int
    middle_right: int
    lower_right: int


def parse_attributes(report: str) -> Attributes:
    """Reads a report worded as those of QaTa-COV19 and MosMedData+.

    Case, spaces between words and points at the end make no difference, nor does the order of
    places and levels, which a flip of the image changes. `higher` is the upper level; `all`, like a
    lung without any level, is all three. MosMedData+ writes `Unilateral ..., left lung and middle
    right lung` for the right lung alone: of two lungs of a unilateral infection one without any
    level word is left out. `No pulmonary infection.` is eight zeros.

    Args:
        report: ``Bilateral pulmonary infection, two infected areas, upper left lung and all right
            lung.``, for example.

    Raises:
        DataError: If the report is worded otherwise; nothing is guessed.
    """
    sentence = " ".join(report.lower().replace("(", " (").split())
    for slip, word in _SLIPS.items():
        sentence = re.sub(rf"(?<!\w){re.escape(slip)}(?!\w)", word, sentence)
    if _NOTHING.fullmatch(sentence):
        return Attributes(*[0] * 8)
    match = _SENTENCE.fullmatch(sentence)
    areas = _number(match["number"]) if match else None
    zones = _zones(match["places"], match["extent"] == "uni") if match else None
    if match is None or areas is None or zones is None:
        raise DataError(
            f"Report {report!r} is not worded as C2FVL's attributes need it: expected a sentence "
            "such as 'Bilateral pulmonary infection, two infected areas, upper middle left lung "
            "and all right lung.', with the number as a word up to twelve or in digits. Correct "
            "the report, or take a method that reads any sentence, such as lvit."
        )
    named = [(level, side) in zones for side in ("left", "right") for level in LEVELS]
    return Attributes(int(match["extent"] == "bi"), areas, *map(int, named))


def _number(word: str) -> int | None:
    if word in _NUMBERS:
        return _NUMBERS.index(word) + 1
    return int(word) if re.fullmatch(r"[0-9]{1,3}", word) else None


def _zones(places: str, unilateral: bool) -> set[tuple[str, str]] | None:
    """Levels and sides that are named; None for wording that is not understood."""
    levels: dict[str, str] = {}
    for place in places.split(" and "):
        match = _PLACE.fullmatch(place)
        if match is None or match["side"] in levels:
            return None
        levels[match["side"]] = match["levels"]
    if unilateral and any(levels.values()):
        levels = {side: words for side, words in levels.items() if words}
    return {
        (level, side)
        for side, words in levels.items()
        for word in words.split() or ["all"]
        for level in _LEVEL_WORDS[word]
    }
