"""Frontal chest film: everything in the beam adds up."""

import numpy as np

from lcpdn_pl.data.phantoms.drawing import Floats, Rng, blob, fill, lines, noise, soften, union
from lcpdn_pl.data.phantoms.lungs import lung_pair, opacify, place_lesions, take, vessels
from lcpdn_pl.data.phantoms.scene import Scene

_LUNG = np.column_stack(  # x and y of the outline
    [
        [0.36, 0.42, 0.44, 0.43, 0.42, 0.32, 0.20, 0.10, 0.09, 0.12, 0.18, 0.27],
        [0.10, 0.17, 0.36, 0.60, 0.80, 0.78, 0.83, 0.91, 0.72, 0.45, 0.24, 0.12],
    ]
)
_BODY = np.column_stack(
    [
        [0.36, 0.36, 0.1, -0.1, -0.1, 1.1, 1.1, 0.9, 0.64, 0.64],
        [-0.1, 0.05, 0.1, 0.2, 1.1, 1.1, 0.2, 0.1, 0.05, -0.1],
    ]
)


def draw_xray(size: int, rng: Rng) -> Scene:
    """Draws consolidation (kind 0) and ground-glass haze (kind 1) in the lungs of a film."""
    n = 2 * size
    heart = fill(n, blob(rng, (0.55, 0.66), (rng.uniform(0.14, 0.19), 0.13), 0.5, 0.03))
    heart |= fill(n, blob(rng, (0.56, 0.31), (0.05, 0.06)))  # aortic knob
    lungs = lung_pair(n, rng, _LUNG) & ~heart
    kinds = place_lesions(n, rng, lungs)
    air = soften(union(lungs), 0.006)

    grey = 0.66 * soften(fill(n, _BODY), 0.01) - 0.42 * air * (1 + 0.12 * noise(rng, n, 5))
    grey += 0.06 * soften(heart, 0.008)
    for side in (-1, 1):
        grey += 0.11 * air * vessels(n, rng, (0.5 + 0.08 * side, 0.44), 0.36)
    grey = opacify(grey, kinds, rng, level=0.58)
    return take(grey + _bones(n, rng), kinds, lungs, size, rng, grain=0.018)


def _bones(n: int, rng: Rng) -> Floats:
    """Ribs, clavicles and spine with bright rims, and the dark trachea before the spine."""
    t = np.linspace(0, 1, 12)
    first, gap = rng.uniform(0.10, 0.14), rng.uniform(0.085, 0.10)
    back, front, clavicles = [], [], []  # ribs run down from the back, then down to the front
    for side in (-1, 1):
        for i in range(9):
            x = 0.5 + side * (0.03 + (0.27 + 0.02 * min(i, 5)) * np.sin(t * np.pi / 2))
            y = first + gap * i - 0.05 * np.sin(t * 2.2) + (0.03 + 0.014 * i) * t**2
            back.append(np.column_stack([x, y]))
            x = 0.5 + side * (0.14 + (0.20 + 0.015 * min(i, 5)) * np.cos(t * np.pi / 2))
            front.append(np.column_stack([x, first + 0.09 + gap * i + 0.10 * t]))
        x, y = 0.5 + side * (0.05 + 0.36 * t), 0.2 - 0.11 * t + 0.02 * np.sin(2 * np.pi * t)
        clavicles.append(np.column_stack([x, y]))
    vertebrae = [np.array([[0.475, y], [0.525, y]]) for y in np.arange(0.02, 1, 0.065)]
    trachea = lines(n, [np.array([[0.5, 0], [0.5, 0.36]])], 0.045)
    layer = 0.07 * soften(lines(n, vertebrae, 0.045), 0.006) - 0.10 * soften(trachea, 0.008)
    for paths, width, weight in (
        (back, 0.026, 0.10),
        (front, 0.024, 0.05),
        (clavicles, 0.03, 0.12),
    ):
        bone = soften(lines(n, paths, width), 0.003)
        layer += weight * (1.5 * bone - 0.8 * soften(bone, 0.008))  # cortex over marrow
    return layer
