"""Where a report says something is: its side words, drawn."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.side_words import side_words

_LEVELS = ("upper", "middle", "lower")
_SIDES = ("left", "right")


def named_places(reports: Sequence[str]) -> Tensor:
    """Which of six places each report names.

    Returns:
        [B, 3, 2], rows upper, middle, lower and columns left, right of the image: 1 where named
        and 0 elsewhere; 0.5 everywhere for a report that names none. A side without a level is
        all of that side, a level without a side both of its sides.
    """
    places = torch.full((len(reports), len(_LEVELS), len(_SIDES)), 0.5)
    for grid, report in zip(places, reports, strict=True):
        for number, zone in enumerate(side_words(report)):
            if number == 0:
                grid.zero_()
            for level in zone.levels or _LEVELS:
                for side in [zone.side] if zone.side else _SIDES:
                    grid[_LEVELS.index(level), _SIDES.index(side)] = 1
    return places


def place_maps(places: Tensor, height: int, width: int) -> Tensor:
    """Draws named places at the size of a scale.

    Levels of a lung are not thirds of an image, so the six places blend into one another; sides
    are halves of it, and are drawn once more without levels and with a sharp border.

    Args:
        places: What `named_places` returns.
        height: Rows H of the maps.
        width: Columns W of the maps.

    Returns:
        [B, 2, H, W] from -0.5, not named, to 0.5: the six places, interpolated, and the sides.
    """
    grid = places.unsqueeze(1)
    blended = F.interpolate(grid, (height, width), mode="bilinear")
    sides = F.interpolate(grid.amax(dim=2, keepdim=True), (height, width), mode="nearest")
    return torch.cat([blended, sides], dim=1) - 0.5
