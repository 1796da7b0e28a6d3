"""Tissue stained with haematoxylin and eosin: round, dark nuclei and elongated, pale ones.

Draws optical densities of the stains and turns them into light at the end.
"""

import cv2
import numpy as np

from lcpdn_pl.data.phantoms.drawing import (
    COARSE,
    Bools,
    Floats,
    Points,
    Rng,
    blob,
    fill,
    fill_values,
    noise,
    shrink,
    soften,
    union,
)
from lcpdn_pl.data.phantoms.scene import Scene, finish

_Nucleus = tuple[Points, float]  # outline, uptake of haematoxylin

# Optical density per unit of haematoxylin, eosin and blood, for red, green and blue.
_STAINS = np.array([[0.72, 0.70, 0.30], [0.10, 0.85, 0.36], [0.16, 0.95, 0.80]], np.float32)


def draw_nuclei(size: int, rng: Rng) -> Scene:
    """Draws round (kind 0) and elongated (kind 1) nuclei among fibres and red blood cells."""
    n = 2 * size
    along, across = _fibre_coordinates(n, rng)
    fibres = cv2.remap(
        noise(rng, n, 60, 10), along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    lumen = blob(rng, rng.uniform(0, 1, 2), (0.14, 0.08), rng.uniform(0, np.pi), 0.2)
    nuclei = _place_nuclei(rng, lumen, across)
    kinds = np.stack([fill(n, *(outline for outline, _ in kind)) for kind in nuclei])
    uptake = fill_values(n, nuclei[0] + nuclei[1])
    dark, pale = soften(kinds[0], 0.003), soften(kinds[1], 0.003)
    tissue = 1 - soften(fill(n, lumen), 0.006)

    chromatin = (1 + 0.4 * noise(rng, n, 80) * dark + 0.2 * noise(rng, n, 110)).clip(0.65, 1.6)
    membrane = 1 + 1.2 * dark * (1 - dark) + 1.2 * pale * (1 - pale)
    haematoxylin = soften(uptake, 0.003) * chromatin * membrane
    haematoxylin += tissue * (0.10 + 0.05 * noise(rng, n, 6))
    eosin = tissue * (0.42 + 0.13 * fibres + 0.10 * noise(rng, n, 5) + 0.04 * noise(rng, n, 90))
    eosin *= 1 - 0.7 * dark - 0.25 * pale
    blood = soften(_red_cells(n, rng) & ~union(kinds), 0.003) * (1 + 0.1 * noise(rng, n, 40))

    stains = np.stack([haematoxylin, eosin * (1 - blood), 0.55 * blood], axis=-1).clip(0)
    stains *= rng.uniform(0.65, 1.35, 3).astype(np.float32)  # laboratories stain differently
    lamp = rng.uniform(0.92, 1) + 0.03 * noise(rng, n, 3)
    tint = _STAINS * rng.normal(1, 0.06, _STAINS.shape).astype(np.float32)
    image = shrink(np.exp(-stains @ tint) * lamp[..., None], size)  # Beer-Lambert law
    image += rng.normal(0, 0.012, image.shape)
    return finish(image, kinds, rows=(0, size))


def _fibre_coordinates(n: int, rng: Rng) -> tuple[Floats, Floats]:
    """Pixel coordinates along and across gently waving fibres of a random direction."""
    y, x = np.mgrid[:n, :n].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle) + 0.05 * n * noise(rng, n, 4)
    return along.astype(np.float32), across.astype(np.float32)


def _place_nuclei(rng: Rng, lumen: Points, across: Floats) -> tuple[list[_Nucleus], list[_Nucleus]]:
    """Throws nuclei outside the lumen until each kind covers its share of the image."""
    taken = fill(COARSE, lumen)
    nuclei: tuple[list[_Nucleus], list[_Nucleus]] = ([], [])
    share, goals = np.zeros(2), rng.uniform(0.06, 0.14, 2)
    foci = rng.uniform(0.15, 0.85, (2, 2))
    for _ in range(300):
        kind = int(np.argmin(share / goals))  # taking turns keeps the areas of the kinds alike
        if share[kind] >= goals[kind]:
            break
        clustered = rng.random() < 0.5
        centre = (rng.normal(foci[kind], 0.15) if clustered else rng.random(2)).clip(0, 0.98)
        nucleus = _elongated_nucleus(rng, centre, across) if kind else _round_nucleus(rng, centre)
        outline = nucleus[0]
        around = fill(COARSE, centre + 1.15 * (outline - centre))
        if not (taken & around).any():
            taken |= around
            share[kind] += cv2.contourArea(outline.astype(np.float32))
            nuclei[kind].append(nucleus)
    return nuclei


def _round_nucleus(rng: Rng, centre: Points) -> _Nucleus:
    radius, uptake = rng.uniform(0.028, 0.042), rng.uniform(0.8, 1.5)
    radii = (radius, radius * rng.uniform(0.85, 1))
    return blob(rng, centre, radii, rng.uniform(0, np.pi), bumps=0.05), uptake


def _elongated_nucleus(rng: Rng, centre: Points, across: Floats) -> _Nucleus:
    x, y = (centre * len(across)).astype(int)
    slope_x, slope_y = across[y, x + 1] - across[y, x], across[y + 1, x] - across[y, x]
    along = np.arctan2(-slope_x, slope_y)  # fibres are the level lines of the coordinate across
    radii, uptake = (rng.uniform(0.06, 0.09), rng.uniform(0.020, 0.028)), rng.uniform(0.5, 0.95)
    return blob(rng, centre, radii, along + rng.normal(0, 0.15), bumps=0.06, taper=0.4), uptake


def _red_cells(n: int, rng: Rng) -> Bools:
    """Distractors: round like one kind of nucleus and pale like the other, but neither."""
    centres = rng.normal(rng.uniform(0.1, 0.9, 2), 0.12, (rng.integers(3, 14), 2))
    return fill(n, *(blob(rng, centre, (0.024, 0.021), bumps=0.05) for centre in centres))
