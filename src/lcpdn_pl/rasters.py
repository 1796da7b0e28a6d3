"""Pictures that are written by bands of rows, so that none has to fit into memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

BAND = 128
"""Rows of a band, and side of a tile of the TIFF files that are written."""

PNG_PIXELS = 2**26
"""Pixels above which a picture is a TIFF: 8192 x 8192 is a PNG still."""


HALF = np.iinfo(np.uint16).max // 2
"""The 16-bit grey of one half."""


class RowFile:
    """Rows of 16-bit numbers on disk, appended in order and read back by rows.

    A plain file and no memory map: pages of a map count as the process's own memory.

    Args:
        path: File to start anew.
        width: Numbers in a row.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        path.write_bytes(b"")

    def append(self, rows: NDArray[np.uint16]) -> None:
        """Appends rows [N, W]."""
        with self._path.open("ab") as file:
            file.write(rows.tobytes())  # ndarray.tofile's error would not say that the disk is full

    def rows(self, top: int, bottom: int) -> NDArray[np.uint16]:
        """The rows [bottom - top, W]."""
        count = (bottom - top) * self._width
        numbers = np.fromfile(self._path, np.uint16, count, offset=2 * top * self._width)
        return numbers.reshape(bottom - top, self._width)


def sixteen_bit(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Numbers in 0..1 as 16-bit grey, 65535 for 1; more than :data:`HALF` is more than 0.5."""
    numbers = np.rint(values * np.float32(np.iinfo(np.uint16).max))
    exact = np.where(values > 0.5, np.maximum(numbers, HALF + 1), np.minimum(numbers, HALF))
    return np.asarray(exact, np.uint16)


def raster_suffix(height: int, width: int) -> str:
    """``.png``, or ``.tif`` for pictures that few programs would open as PNG."""
    return ".png" if height * width <= PNG_PIXELS else ".tif"


def bands(height: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of each band."""
    for top in range(0, height, BAND):
        yield top, min(top + BAND, height)


def write_raster(path: Path, content: Iterable[NDArray[Any]], height: int, width: int) -> None:
    """Writes a picture as a PNG, or as a deflated BigTIFF of tiles, by its suffix.

    Args:
        path: File to write, ``*.png`` or ``*.tif``.
        content: Its bands, see :func:`bands`: [N, W] of uint8 or uint16, or [N, W, 3] of uint8.
        height: Rows of all of them.
        width: Columns.
    """
    if path.suffix == ".png":
        Image.fromarray(np.concatenate(list(content))).save(path, "PNG")
        return
    remaining = iter(content)
    first = next(remaining)
    tifffile.imwrite(
        path,
        _tiles(first, remaining),
        shape=(height, width, *first.shape[2:]),
        dtype=first.dtype,
        photometric="rgb" if first.ndim == 3 else "minisblack",
        tile=(BAND, BAND),
        compression="zlib",
        bigtiff=True,
        metadata=None,
    )


def _tiles(first: NDArray[Any], remaining: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    band: NDArray[Any] | None = first
    while band is not None:
        for left in range(0, band.shape[1], BAND):
            tile = np.zeros((BAND, BAND, *band.shape[2:]), band.dtype)
            part = band[:, left : left + BAND]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
        band = next(remaining, None)
