"""What chest films and CT slices share: lungs, vessels, lesions and the variation of a take.

Kind 0 is consolidation, which hides what lies beneath; kind 1 is ground-glass haze.
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
    lines,
    noise,
    shrink,
    soften,
    union,
)
from lcpdn_pl.data.phantoms.scene import Scene, finish


def lung_pair(n: int, rng: Rng, outline: Points) -> Bools:
    """The lung on the left of the image and its mirror image `[2, n, n]`, not quite alike."""
    outlines = outline + rng.normal(0, 0.008, (2, *outline.shape))
    outlines[1, :, 0] = 1 - outlines[1, :, 0]
    return np.stack([soften(fill(n, corners), 0.015) > 0.5 for corners in outlines])


def vessels(n: int, rng: Rng, hilum: tuple[float, float], reach: float) -> Floats:
    """Branches that wander outward from the hilum and thin out on the way."""
    outward = np.sign(hilum[0] - 0.5)
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    layer = np.zeros((n, n), np.float32)
    for angle in np.linspace(-1.5, 1.5, 8) + rng.normal(0, 0.1, 8):
        heading = angle + np.cumsum(rng.normal(0, 0.25, 12))
        steps = np.column_stack([outward * np.cos(heading), np.sin(heading)]) * reach / 12
        path = np.array(hilum) + np.cumsum(steps, axis=0)
        forks = [path[3] + (path[3:9] - path[3]) @ turn, path[6] + (path[6:] - path[6]) @ turn.T]
        for width, *pieces in ((0.013, path[:4]), (0.008, path[3:8]), (0.005, path[7:], *forks)):
            layer = np.maximum(layer, lines(n, pieces, width))
    return soften(layer, 0.002)


def place_lesions(n: int, rng: Rng, lungs: Bools) -> Bools:
    """Puts one to three lesions of each kind into the lungs; gives the kinds `[2, n, n]`."""
    rooms = [shrink(lung, COARSE) > 0.5 for lung in lungs]
    inside = [np.argwhere(room)[:, ::-1] / COARSE for room in rooms]
    kinds, near = np.zeros((2, n, n), bool), np.zeros((COARSE, COARSE), bool)
    counts = rng.choice([1, 2, 3], size=2, p=[0.45, 0.4, 0.15])
    sizes = np.sqrt(rng.uniform(0.05, 0.09, 2) / counts / np.pi)
    for kind in rng.permutation(np.repeat([0, 1], counts)):
        radius = sizes[kind]
        while True:  # ends because ever smaller lesions are tried
            side, stretch = rng.integers(2), rng.uniform(1, 1.3)
            radii, lean = (radius * stretch, radius / stretch), rng.normal(np.pi / 2, 0.5)
            outline = blob(rng, rng.choice(inside[side]), radii, lean, bumps=0.2)
            whole = fill(COARSE, outline)
            fits = (whole & rooms[side]).sum() > 0.75 * whole.sum()
            if fits and not (whole & near).any():
                break
            radius *= 0.99
        kinds[kind] |= fill(n, outline) & lungs[side]
        near |= soften(whole, 0.015) > 0.02  # leaves a gap, so that lesions can be counted
    return kinds


def opacify(grey: Floats, kinds: Bools, rng: Rng, level: float) -> Floats:
    """Fills consolidations up to `level` and lets the lung shine through ground-glass haze."""
    n = len(grey)
    dense = soften(kinds[0], 0.003) * 0.9
    haze = soften(kinds[1], 0.022) * rng.uniform(0.38, 0.56) * (1 + 0.3 * noise(rng, n, 24))
    hazy: Floats = grey + haze * (level - grey)
    return hazy + dense * (level + 0.05 * noise(rng, n, 30) - hazy)


def take(grey: Floats, kinds: Bools, lungs: Bools, size: int, rng: Rng, grain: float) -> Scene:
    """Varies build, posture, illumination and contrast, so that no fixed grey level helps."""
    n = len(grey)
    pose = cv2.getRotationMatrix2D((0, 0), rng.uniform(-2, 2), 1)
    pose[:, :2] *= rng.uniform(0.93, 1.05, (2, 1))
    pose[:, 2] = n * (0.5 - pose[:, :2] @ (0.5, 0.5) + rng.uniform((-0.006, -0.02), (0.006, 0.02)))

    def move(layer: Bools | Floats) -> Floats:
        floats = layer.astype(np.float32)
        return np.asarray(cv2.warpAffine(floats, pose, (n, n), borderMode=cv2.BORDER_REPLICATE))

    lit = move(grey) * rng.uniform(0.85, 1.1) + 0.03 * noise(rng, n, 3)
    small = shrink(lit.clip(0, 1.2) ** rng.uniform(0.8, 1.25), size)
    image = np.repeat((small + rng.normal(0, grain, small.shape))[..., None], 3, axis=-1)
    lung_rows = np.flatnonzero(shrink(move(union(lungs)), size).max(axis=1) > 0.5)
    rows = int(lung_rows[0]), int(lung_rows[-1]) + 1
    return finish(image, np.stack([move(kind) for kind in kinds]), rows)
