"""Outlines of nuclei in Aperio ImageScope's XML, as MoNuSeg is handed out, and masks of them.

A document holds ``Annotation`` layers of ``Region`` elements, each with its ``Vertex`` elements
(``X``, ``Y`` in pixels from the upper left corner). All layers count alike. What a region with
``NegativeROA="1"`` encloses is cut out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.errors import DataError

_EDGES_AT_ONCE = 256
_FARTHEST = 1e6  # pixels; no slide is larger
MOST_BYTES = 256 * 2**20
"""Of a document, whose points take a fraction of that in memory."""


class Outline(NamedTuple):
    """A closed polygon."""

    points: NDArray[np.float64]
    """[N, 2], x and y in pixels."""
    negative: bool


def read_outlines(path: Path) -> list[Outline]:
    """Reads the outlines of an annotation.

    Args:
        path: The .xml file.

    Returns:
        Outlines in the file's order.

    Raises:
        DataError: The file is no such XML, declares entities, has a point without two numbers, or
            has no region at all.
    """
    outlines: list[tuple[list[tuple[float, float]], bool]] = []

    def start(tag: str, values: Mapping[str, str]) -> None:
        if tag == "Region":
            outlines.append(([], values.get("NegativeROA") == "1"))
        elif tag == "Vertex" and outlines:
            point = float(values["X"]), float(values["Y"])
            if not all(math.isfinite(number) and abs(number) < _FARTHEST for number in point):
                raise ValueError(f"the point {point}")
            outlines[-1][0].append(point)

    def refuse(name: str, *_: object) -> None:
        # Entities that expand to gigabytes are declared in a document type; ImageScope needs none.
        raise ValueError(f"a document type `{name}`")

    if path.stat().st_size > MOST_BYTES:
        raise DataError(
            f"{path}: expected outlines of at most {MOST_BYTES >> 20} MiB, found "
            f"{path.stat().st_size >> 20} MiB. Move it away if it is no annotation."
        )
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, ValueError, LookupError, OSError) as error:
        raise DataError(
            f"{path}: expected the outlines of ImageScope as XML, found {error}. Download it again."
        ) from error
    if not outlines:
        raise DataError(
            f"{path}: expected the outlines of ImageScope as XML, found no Region element. "
            "Download it again, or move it away if it is no annotation."
        )
    return [
        Outline(np.array(points, np.float64).reshape(-1, 2), negative)
        for points, negative in outlines
    ]


def draw_outlines(outlines: list[Outline], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draws the mask of outlines: pixels whose centre one of them encloses (even-odd rule).

    Pixel (row, column) covers column to column + 1 and row to row + 1. OpenCV's polygon filling
    also takes the pixels that an outline merely touches, which makes each nucleus about a pixel
    wider. What lies beyond the image is cut off; fewer than three points enclose nothing.

    Args:
        outlines: Outlines as of `read_outlines`.
        size: Height and width of the image.

    Returns:
        Mask [H,W] of 0 and 255.
    """
    mask = np.zeros(size, np.bool_)
    # Cuts come last, whatever the order in the file.
    for points, negative in sorted(outlines, key=lambda outline: outline.negative):
        if len(points) < 3:
            continue
        first = np.clip(np.floor(points.min(0)).astype(int), 0, size[::-1])
        last = np.clip(np.ceil(points.max(0)).astype(int), 0, size[::-1])
        (width, height), window = last - first, np.s_[first[1] : last[1], first[0] : last[0]]
        inside = _enclosed(points - first, (height, width))
        mask[window] = mask[window] & ~inside if negative else mask[window] | inside
    return mask.astype(np.uint8) * 255


def _enclosed(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels to the right of an odd number of edges."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int32)
    centres = np.arange(height)[:, None] + 0.5
    ends = np.roll(points, -1, axis=0)
    for edge in range(0, len(points), _EDGES_AT_ONCE):
        part = np.s_[edge : edge + _EDGES_AT_ONCE]
        (x0, y0), (x1, y1) = points[part].T, ends[part].T
        rows, edges = np.nonzero((y0 <= centres) != (y1 <= centres))
        slope = (x1 - x0)[edges] / (y1 - y0)[edges]
        x = x0[edges] + (centres[rows, 0] - y0[edges]) * slope
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
        np.add.at(crossings, (rows, columns), 1)
    return np.asarray(np.cumsum(crossings, axis=1)[:, :width] % 2 == 1, np.bool_)
