"""Rule-based reports: what a mask alone can say, in the wording of the public sets.

They are made from the ground truth. On a validation or test split they tell a network what it is
asked to find, so tables mark them with `source: mask`, and data modules warn of them.

The rules, `left` being the left of the image:

`lungs`
    Areas are connected regions (touching corners connect). A side is named if one of the areas has
    at least 30 % of its pixels there, and both sides if none is: the middle column of an odd width
    belongs to neither. The level of a side is each third that holds at least 10 % of
    the side's foreground; `all` stands for three. The thirds are those of the rows that bear lung,
    from 30 to 60 % of the image's height; what lies above or below belongs to the outer thirds.
    Rows and shares are those that agree best with the reports of the training images of QaTa-COV19
    and MosMedData+ together: 47 and 61 % of them have the same sides and levels.
`nuclei`
    Density is the share of foreground. The densest quarter of the image is named if it has at least
    1.15 times the density of the whole image; if the denser of its neighbours has 1.1 times, the
    half that both make. Otherwise nuclei are sparsely distributed if they cover less than 22 %;
    irregularly if the density of the 25 tiles of a 5 x 5 grid varies by more than a quarter of its
    mean (standard deviation); and evenly in all other cases.
`generic`
    The number of connected regions, their share of the image, and the quarters that hold at least
    20 % of the foreground each, two of which make a half.
"""

from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Wording = Literal["lungs", "nuclei", "generic"]

MASK_SOURCE = "mask"
"""What the column `source` of report tables and manifests says of these reports."""

_Bools = NDArray[np.bool_]

_SIDE_SHARE = 0.3
_LUNG_ROWS = (0.3, 0.6)
_LEVEL_SHARE = 0.1
_DENSE, _DENSE_NEIGHBOUR = 1.15, 1.1
_SPARSE = 0.22
_UNEVEN = 0.25
_QUARTER_SHARE = 0.2

_SIDES = ("left", "right")
_LEVELS = ("upper", "middle", "lower")
_NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


def describe_mask(mask: NDArray[np.uint8], wording: Wording) -> str:
    """Writes the report of a mask; the same mask always gets the same one.

    Args:
        mask: [H, W], 1 for foreground.
        wording: Whose words and rules to use, see the module.

    Returns:
        One sentence. A mask without foreground gets one that says so.
    """
    describe = {"lungs": _lungs, "nuclei": _nuclei, "generic": _generic}[wording]
    return describe(mask == 1)


def _areas(mask: _Bools) -> tuple[int, NDArray[np.int32]]:
    """The number of connected regions, and which one each pixel belongs to, from 1 on."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1, labels


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _halves(length: int) -> tuple[slice, slice]:
    """Two halves; the middle line of an odd length is in neither."""
    return slice(length // 2), slice(length - length // 2, None)


def _lungs(mask: _Bools) -> str:
    count, labels = _areas(mask)
    if not count:
        return "No pulmonary infection."
    sizes = np.bincount(labels[mask], minlength=count + 1)[1:]
    places = []
    for side, columns in zip(_SIDES, _halves(mask.shape[1]), strict=True):
        part = mask[:, columns]
        there = np.bincount(labels[:, columns][part], minlength=count + 1)[1:]
        if (there >= _SIDE_SHARE * sizes).any():
            places.append(f"{_lung_levels(part)} {side} lung")
    if not places:
        places = [f"{_lung_levels(mask)} {side} lung" for side in _SIDES]
    return (
        f"{'Unilateral' if len(places) == 1 else 'Bilateral'} pulmonary infection, "
        f"{_number(count)} infected area{'s' * (count > 1)}, {' and '.join(places)}."
    )


def _lung_levels(part: _Bools) -> str:
    height = len(part)
    ends = np.rint(np.linspace(*_LUNG_ROWS, 4)[1:3] * height).astype(int)
    thirds = [part[top:bottom].sum() for top, bottom in pairwise((0, *ends, height))]
    levels = [
        level
        for level, third in zip(_LEVELS, thirds, strict=True)
        if third >= _LEVEL_SHARE * part.sum()
    ]
    return "all" if len(levels) == len(_LEVELS) else " ".join(levels)


def _quarters(mask: _Bools) -> dict[tuple[str, str], _Bools]:
    return {
        (level, side): mask[rows, columns]
        for level, rows in zip(("upper", "lower"), _halves(mask.shape[0]), strict=True)
        for side, columns in zip(_SIDES, _halves(mask.shape[1]), strict=True)
    }


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The half that two neighbouring quarters make; nothing for opposite ones."""
    return tuple(a for a, b in zip(one, other, strict=True) if a == b)


def _nuclei(mask: _Bools) -> str:
    whole = mask.mean()
    if not whole:
        return "There are no nuclei."
    density = {place: quarter.mean() / whole for place, quarter in _quarters(mask).items()}
    densest = max(density, key=lambda place: density[place])
    if density[densest] >= _DENSE:
        beside = [place for place in density if len(_common(place, densest)) == 1]
        second = max(beside, key=lambda place: density[place])
        dense = density[second] >= _DENSE_NEIGHBOUR
        where = " ".join(_common(densest, second) if dense else densest)
        return f"The nuclei density in the {where} is high."
    tiles = cv2.resize(mask.astype(np.float32), (5, 5), interpolation=cv2.INTER_AREA)
    if whole < _SPARSE:
        manner = "sparsely"
    else:
        manner = "irregularly" if tiles.std() > _UNEVEN * tiles.mean() else "evenly"
    return f"The nuclei are {manner} distributed."


def _generic(mask: _Bools) -> str:
    count, _ = _areas(mask)
    if not count:
        return "No area."
    share = 100 * mask.mean()
    percent = "less than 1" if share < 1 else f"{share:.0f}"
    areas = f"{_number(count).capitalize()} area{'s' * (count > 1)}"
    return f"{areas}, {percent} % of the image, in {_where(mask)}."


def _where(mask: _Bools) -> str:
    total = mask.sum()
    places = [
        place
        for place, quarter in _quarters(mask).items()
        if quarter.sum() >= _QUARTER_SHARE * total
    ]
    # The middle line of an odd size may hold all there is.
    if len(places) in (0, 4):
        return "all quarters" if places else "the centre"
    if len(places) == 2 and (common := _common(*places)):
        return f"the {common[0]} half"
    return " and ".join(f"the {' '.join(place)}" for place in places)
