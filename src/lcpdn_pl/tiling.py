"""Overlapping tiles of an image, and the weights that blend them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.errors import ConfigError

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of an image lie; where they overlap, they are blended.

    Attributes:
        height: Of the image.
        width: Of the image.
        tile: Height and width of a tile. One that is larger than the image reaches beyond it.
        tops: First row of each row of tiles.
        lefts: First column of each column of tiles.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: list[int]
    lefts: list[int]

    @classmethod
    def whole(cls, height: int, width: int) -> "Tiling":
        """One tile: the image."""
        return cls(height, width, (height, width), [0], [0])

    @classmethod
    def of(cls, height: int, width: int, tile: int, overlap: float) -> "Tiling":
        """Square tiles, as few as overlap by at least this share of their side.

        Raises:
            ConfigError: If the share is not in [0, 0.5].
        """
        if not 0 <= overlap <= 0.5:
            raise ConfigError(f"overlap={overlap} must be a share of the tile's side, 0 to 0.5.")
        tops, lefts = (_starts(length, tile, overlap) for length in (height, width))
        return cls(height, width, (tile, tile), tops, lefts)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.tops) * len(self.lefts)

    def weights(self) -> tuple[list[Weights], list[Weights]]:
        """Weights of the rows of each row of tiles, and of the columns of each column of them.

        A pixel's weight in a tile is that of its row times that of its column; the weights of a
        pixel in all of its tiles sum to 1.
        """
        return (
            _weights(self.height, self.tile[0], self.tops),
            _weights(self.width, self.tile[1], self.lefts),
        )


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Evenly spread, the last one at the end."""
    last = max(length - tile, 0)
    stride = max(1, math.floor(tile * (1 - overlap)))
    count = -(-last // stride) + 1
    return [round(start) for start in np.linspace(0, last, count)]


def _weights(length: int, tile: int, starts: list[int]) -> list[Weights]:
    """Hann windows, divided by their sum at each place."""
    side = min(tile, length)
    window = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += window
    return [(window / total[start : start + side]).astype(np.float32) for start in starts]
