"""What every picture promises, and what those with measured values share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.errors import ConfigError, DataError

Pixels = NDArray[np.uint8]

_BAND = 256

MAX_PIXELS = 150_000_000
"""Pixels that are decoded at once, somewhat more than 12,000 x 12,000."""


class Picture(ABC):
    """An image that is read by rows; one that is larger than memory is never held whole.

    Args:
        name: For messages.
        height: Rows.
        width: Columns.
        note: How its values became 8-bit, if there was a choice.
    """

    def __init__(self, name: str, height: int, width: int, note: str = "") -> None:
        if min(height, width) < 1:
            raise DataError(
                f"{name}: expected pixels, found a size of {height} x {width}. Export it again."
            )
        self.name = name
        self.height = height
        self.width = width
        self.note = note

    @abstractmethod
    def rows(self, top: int, bottom: int) -> Pixels:
        """Pixels [bottom - top, W, 3] in 0..255 of some rows.

        Raises:
            DataError: If they cannot be read.
        """


class DecodedPicture(Picture):
    """A picture that is decoded whole when its first row is asked for.

    Args:
        name: For messages.
        height: Rows, as declared.
        width: Columns, as declared.
        decode: Returns the pixels [H, W, 3].
        note: See :class:`Picture`.

    Raises:
        DataError: If it declares more than ``MAX_PIXELS``.
    """

    def __init__(
        self, name: str, height: int, width: int, decode: Callable[[], Pixels], note: str = ""
    ) -> None:
        super().__init__(name, height, width, note)
        check_pixels(name, height, width)
        self._decode = decode

    @cached_property
    def _pixels(self) -> Pixels:
        pixels = self._decode()
        if pixels.shape != (self.height, self.width, 3):
            raise DataError(
                f"{self.name}: the header declares {self.height} x {self.width} pixels, found "
                f"{' x '.join(map(str, pixels.shape[:2]))}. Export it again."
            )
        return pixels

    def rows(self, top: int, bottom: int) -> Pixels:
        """See :meth:`Picture.rows`."""
        return self._pixels[top:bottom]


def check_pixels(name: str, height: int, width: int) -> None:
    """Refuses what declares more pixels than are decoded at once, before memory is spent on it.

    Raises:
        DataError: Says how large images are read.
    """
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{name}: declares {height} x {width} pixels; expected at most {MAX_PIXELS:,} in what "
            "is decoded at once. Save it as a TIFF of tiles or strips, which is read by parts."
        )


@dataclass(frozen=True)
class Range:
    """The values that become 0 and 255.

    Attributes:
        low: Becomes 0, with all below.
        high: Becomes 255, with all above.
        source: Who says so.
    """

    low: float
    high: float
    source: str

    @classmethod
    def of(cls, window: tuple[float, float]) -> "Range":
        """The range of a center and a width."""
        center, width = window
        return cls(center - width / 2, center + width / 2, "given")

    @property
    def note(self) -> str:
        """For messages, such as ``values -1350 to 150 (given)``."""
        return f"values {self.low:g} to {self.high:g} ({self.source})"


FULL_RANGE = "values from the smallest to the largest"
"""The note where there is no :class:`Range`."""


def to_rgb(values: NDArray[Any], limits: Range | None) -> Pixels:
    """Measured values [H, W] as 8-bit RGB [H, W, 3].

    Args:
        values: Not finite ones become black.
        limits: ``None`` is from the smallest to the largest finite value.
    """
    # Band by band: at the largest size that is read, numpy's steps in between take gigabytes.
    bands = [slice(top, top + _BAND) for top in range(0, len(values), _BAND)]
    if limits is None:
        finite = (values[band][np.isfinite(values[band])] for band in bands)
        ends = [float(end) for part in finite if part.size for end in (part.min(), part.max())]
        low, high = min(ends, default=0.0), max(ends, default=0.0)
    else:
        low, high = limits.low, limits.high
    scale = high - low if high > low else 1.0
    pixels = np.empty((*values.shape, 3), np.uint8)
    for band in bands:
        part = np.asarray(values[band], np.float64)
        part = np.where(np.isfinite(part), part, low)
        pixels[band] = np.rint(255 * np.clip((part - low) / scale, 0, 1))[..., None]
    return pixels


def choose_slice(name: str, count: int, slice: int | None) -> int:
    """The number of the slice to take of some.

    Raises:
        ConfigError: If there are several and none is chosen, or the chosen one does not exist.
    """
    if slice is None and count > 1:
        raise ConfigError(f"{name} holds {count} slices. Choose one: --slice 0 to {count - 1}.")
    if slice is not None and not 0 <= slice < count:
        raise ConfigError(f"{name} holds slices 0 to {count - 1}, but slice={slice} was given.")
    return slice or 0
