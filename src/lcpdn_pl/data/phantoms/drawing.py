"""Brushes that all looks share: filled outlines, lines, blur and smooth noise.

Points are unit coordinates (x to the right, y down) on an n x n canvas, so a drawing is the same
at every size. Canvases have twice the side of the image and are shrunk at the end, which smooths
edges more evenly than OpenCV's own antialiasing.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Points = NDArray[np.float64]  # [points, 2] of x and y
Rng = np.random.Generator

COARSE = 128  # canvas side: fine enough to find out whether two structures touch, and cheap

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def _pixels(n: int, points: Points) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * n * 2**_SHIFT), np.int32)


def fill(n: int, *outlines: Points) -> Bools:
    """Everything inside the outlines; where two overlap is outside, as with the even-odd rule."""
    canvas = np.zeros((n, n), np.uint8)
    cv2.fillPoly(canvas, [_pixels(n, outline) for outline in outlines], 1, shift=_SHIFT)
    return canvas.view(np.bool_)


def fill_values(n: int, shapes: Sequence[tuple[Points, float]]) -> Floats:
    """Fills each outline with its value; later ones hide earlier ones."""
    canvas = np.zeros((n, n), np.float32)
    for outline, value in shapes:
        cv2.fillPoly(canvas, [_pixels(n, outline)], value, shift=_SHIFT)
    return canvas


def lines(n: int, paths: Sequence[Points], width: float) -> Floats:
    """Open lines of value 1."""
    canvas = np.zeros((n, n), np.float32)
    pixels = [_pixels(n, path) for path in paths]
    cv2.polylines(canvas, pixels, False, 1.0, max(1, round(width * n)), shift=_SHIFT)
    return canvas


def blob(
    rng: Rng,
    centre: Sequence[float] | Points,
    radii: tuple[float, float],
    angle: float = 0.0,
    bumps: float = 0.0,
    taper: float = 0.0,
) -> Points:
    """Outline `[40, 2]` of an ellipse with a wavy edge; `taper` sharpens its two ends."""
    t = np.arange(40) * (2 * np.pi / 40)
    orders = np.array([[2], [3], [5]])
    wavy = 1 + bumps * (np.cos(orders * t + rng.uniform(0, 2 * np.pi, (3, 1))) / orders).sum(axis=0)
    x = radii[0] * wavy * np.cos(t)
    y = radii[1] * wavy * np.sin(t) * np.abs(np.sin(t)) ** taper
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(np.column_stack([x, y]) @ turn + np.asarray(centre))


def noise(rng: Rng, n: int, *cells: int) -> Floats:
    """Smooth noise around 0 with so many bumps per column and per row."""
    grid = rng.standard_normal((cells[0], cells[-1])).astype(np.float32)
    return np.asarray(cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC))


def union(layers: Bools) -> Bools:
    """What any of the layers `[layers, n, n]` covers."""
    return np.asarray(layers.any(axis=0))


def soften(layer: Bools | Floats, sigma: float) -> Floats:
    """Gaussian blur; `sigma` is a share of the canvas."""
    pixels = max(sigma * layer.shape[0], 0.3)
    return np.asarray(cv2.GaussianBlur(layer.astype(np.float32), (0, 0), pixels))


def shrink(layer: Bools | Floats, size: int) -> Floats:
    """Means over areas: how much of each pixel of the smaller image is covered."""
    floats = layer.astype(np.float32)
    return np.asarray(cv2.resize(floats, (size, size), interpolation=cv2.INTER_AREA))
