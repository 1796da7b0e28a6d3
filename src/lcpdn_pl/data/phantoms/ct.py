"""Axial chest CT slice: one value per tissue, painted over one another from the skin inward.

The front of the body is at the top of the image. Reports still call image rows upper, middle
and lower, as the public report lines do.
"""

import numpy as np

from lcpdn_pl.data.phantoms.drawing import (
    Bools,
    Floats,
    Rng,
    blob,
    fill,
    lines,
    noise,
    soften,
    union,
)
from lcpdn_pl.data.phantoms.lungs import lung_pair, opacify, place_lesions, take, vessels
from lcpdn_pl.data.phantoms.scene import Scene

_LUNG = np.column_stack(  # x and y of the outline
    [
        [0.44, 0.32, 0.20, 0.12, 0.13, 0.22, 0.36, 0.43, 0.42, 0.39, 0.41],
        [0.22, 0.20, 0.29, 0.46, 0.63, 0.77, 0.81, 0.74, 0.60, 0.50, 0.35],
    ]
)
_PROCESSES = ((0.0, 0.09), (-0.08, 0.03), (0.08, 0.03))  # of the vertebra: back, left and right


def draw_ct(size: int, rng: Rng) -> Scene:
    """Draws consolidation (kind 0) and ground-glass haze (kind 1) in the lungs of a slice."""
    n = 2 * size
    heart = fill(n, blob(rng, (0.55, 0.40), (rng.uniform(0.12, 0.16), 0.11), -0.4, 0.03))
    lungs = lung_pair(n, rng, _LUNG) & ~heart
    kinds = place_lesions(n, rng, lungs)
    air = soften(union(lungs), 0.003)

    grey = np.zeros((n, n), np.float32)
    for layer, value in (*_chest_wall(n, rng), (heart, 0.70)):
        grey += soften(layer, 0.003) * (value - grey)
    grey += 0.03 * noise(rng, n, 16) * (grey > 0.4)
    grey += air * (0.13 + 0.02 * noise(rng, n, 20) - grey)
    for side in (-1, 1):
        grey += 0.42 * air * vessels(n, rng, (0.5 + 0.09 * side, 0.53), 0.30)
    grey = opacify(grey, kinds, rng, level=0.62)
    return take(grey, kinds, lungs, size, rng, grain=0.022)


def _chest_wall(n: int, rng: Rng) -> list[tuple[Bools | Floats, float]]:
    """Layers of the slice's surroundings, each with its value, in painting order."""
    t = np.linspace(0, 2 * np.pi, 100)
    cage = np.column_stack([0.5 + 0.405 * np.cos(t), 0.51 + 0.335 * np.sin(t)])
    # The order of the ribs shows nowhere, but without this draw every later one would differ.
    ribs = [cage[start : start + 9] for start in rng.permutation(np.arange(0, 90, 13))]
    table = np.column_stack([0.5 + 0.45 * np.cos(t[5:46]), 0.83 + 0.14 * np.sin(t[5:46])])
    processes = [np.array([[0.5, 0.79], [0.5 + dx, 0.79 + dy]]) for dx, dy in _PROCESSES]
    return [
        (lines(n, [table], 0.008), 0.3),
        (fill(n, blob(rng, (0.5, 0.52), (0.46, 0.405), bumps=0.01)), 0.42),  # fat
        (fill(n, blob(rng, (0.5, 0.52), (0.435, 0.37), bumps=0.01)), 0.62),  # muscle
        (lines(n, ribs, 0.026), 0.95),
        (lines(n, ribs, 0.010), 0.75),  # marrow
        (fill(n, blob(rng, (0.5, 0.172), (0.06, 0.016))), 0.9),  # sternum
        (lines(n, processes, 0.024), 0.9),
        (fill(n, blob(rng, (0.5, 0.73), (0.062, 0.05))), 0.98),  # vertebral body
        (fill(n, blob(rng, (0.5, 0.73), (0.050, 0.038))), 0.80),  # its marrow
        (fill(n, blob(rng, (0.5, 0.798), (0.024, 0.018))), 0.6),  # spinal canal
        (fill(n, blob(rng, (0.555, 0.675), (0.036, 0.036))), 0.72),  # descending aorta
    ]
