"""Drawn images whose report decides the mask: data for the demo and the tests, without a download.

Every phantom shows two kinds of target structure and its report names one of them (sometimes
both). Only the named kinds are foreground, so an image alone does not determine its mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Look = Literal["nuclei", "xray", "ct"]
LOOKS: tuple[Look, ...] = get_args(Look)
MIN_SIZE = 32  # below this, single nuclei fall between the pixels
BOTH_KINDS_SHARE = 0.15

_Floats = NDArray[np.floating]
_Bools = NDArray[np.bool_]
_Points = NDArray[np.float64]  # [points, 2] of x and y
_Rng = np.random.Generator
_Nucleus = tuple[_Points, float]  # outline, uptake of haematoxylin

_KINDS: dict[Look, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "nuclei": (("round", "circular", "rounded"), ("elongated", "spindle-shaped", "spindle-like")),
    "xray": (
        ("dense consolidation", "solid opacity", "solid consolidation"),
        ("ground-glass haze", "hazy opacity", "faint ground-glass opacity"),
    ),
}
_KINDS["ct"] = _KINDS["xray"]

_NUCLEI_TEMPLATES = (
    "the density of {kind} nuclei in the {where} is high.",
    "the {kind} nuclei density in the {where} is high.",
    "{count} {kind} nuclei, densest in the {where}.",
    "{count} {kind} nuclei are seen, with the highest density in the {where}.",
)
_LUNG_TEMPLATES = (
    "{sides} pulmonary infection, {count} infected {areas} of {kind}, {where}.",
    "{sides} pulmonary infection with {kind}, {count} infected {areas}, {where}.",
    "{count} {areas} of {kind}, {where}.",
    "there is {kind} in {count} {areas}, {where}.",
)
_NUMBERS = ("one", "two", "three", "four", "five", "six")

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_GRID = 128  # fine enough to find out whether two structures touch, and cheap

# Optical density per unit of haematoxylin, eosin and blood, for red, green and blue.
_STAINS = np.array([[0.72, 0.70, 0.30], [0.10, 0.85, 0.36], [0.16, 0.95, 0.80]], np.float32)

# Outlines of the lung on the left of the image; the other one is its mirror image.
_XRAY_LUNG = (
    *((0.36, 0.10), (0.42, 0.17), (0.44, 0.36), (0.43, 0.60), (0.42, 0.80), (0.32, 0.78)),
    *((0.20, 0.83), (0.10, 0.91), (0.09, 0.72), (0.12, 0.45), (0.18, 0.24), (0.27, 0.12)),
)
_CT_LUNG = (
    *((0.44, 0.22), (0.32, 0.20), (0.20, 0.29), (0.12, 0.46), (0.13, 0.63), (0.22, 0.77)),
    *((0.36, 0.81), (0.43, 0.74), (0.42, 0.60), (0.39, 0.50), (0.41, 0.35)),
)
_XRAY_BODY = np.array(
    [
        *((0.36, -0.1), (0.36, 0.05), (0.1, 0.1), (-0.1, 0.2), (-0.1, 1.1)),
        *((1.1, 1.1), (1.1, 0.2), (0.9, 0.1), (0.64, 0.05), (0.64, -0.1)),
    ]
)
_SPIKES = ((0.0, 0.09), (-0.08, 0.03), (0.08, 0.03))  # of the vertebra: back, left and right


@dataclass(frozen=True)
class Phantom:
    """One drawn sample.

    Attributes:
        image: RGB picture, uint8 `[size, size, 3]`; the three channels of a grey look are equal.
        mask: Foreground that the report names, uint8 `[size, size]`, 0 or 255.
        report: One English sentence. `left` is the image side: the columns on the left.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    report: str


@dataclass(frozen=True)
class _Scene:
    """A picture before the report has chosen: both kinds' masks `[2, size, size]`."""

    image: NDArray[np.uint8]
    kinds: _Bools
    rows: tuple[int, int]  # what upper, middle and lower divide: first row and last row + 1


def draw_phantom(look: Look, size: int, rng: np.random.Generator) -> Phantom:
    """Draws one image, the report that goes with it and the mask of what the report names.

    Args:
        look: `nuclei` (stained tissue), `xray` (frontal chest film) or `ct` (axial chest slice).
        size: Height and width in pixels, at least 32.
        rng: Source of every choice; the same state draws the same bytes.

    Returns:
        The phantom. Its mask is never empty and covers less than 45 % of the image.

    Raises:
        ValueError: If `look` is not one of `LOOKS` or `size` is below 32.
    """
    if look not in LOOKS:
        raise ValueError(f"unknown look {look!r}: choose one of {', '.join(LOOKS)}")
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}, but a phantom needs at least {MIN_SIZE} pixels")
    both = rng.random() < BOTH_KINDS_SHARE
    kind = int(rng.integers(2))
    return _phantom(look, size, rng, named=(0, 1) if both else (kind,))


def _phantom(look: Look, size: int, rng: _Rng, *, named: Sequence[int]) -> Phantom:
    scene = _SCENES[look](size, rng)
    mask = _union(scene.kinds[list(named)])
    report = _report(look, mask, scene.rows, named, rng)
    return Phantom(scene.image, np.where(mask, 255, 0).astype(np.uint8), report)


# --- Reports: every word about place and number is read off the mask -------------------------


def _report(
    look: Look, mask: _Bools, rows: tuple[int, int], named: Sequence[int], rng: _Rng
) -> str:
    kind = " and ".join(str(rng.choice(_KINDS[look][k])) for k in named)
    count = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    if look == "nuclei":
        template = rng.choice(_NUCLEI_TEMPLATES)
        amount = "a few" if count < 12 else "several" if count < 20 else "many"
        text = template.format(kind=kind, count=amount, where=_densest_quarter(mask))
    else:
        template = rng.choice(_LUNG_TEMPLATES)
        places = _places(mask, rows)
        text = template.format(
            kind=kind,
            count=_NUMBERS[count - 1] if count <= len(_NUMBERS) else "many",
            areas="area" if count == 1 else "areas",
            sides="unilateral" if len(places) == 1 else "bilateral",
            where=" and ".join(places),
        )
    return str(text[0].upper() + text[1:])


def _densest_quarter(mask: _Bools) -> str:
    half = mask.shape[0] // 2
    area = {
        f"{row} {column}": mask[ys, xs].mean()
        for row, ys in (("upper", slice(half)), ("lower", slice(half, None)))
        for column, xs in (("left", slice(half)), ("right", slice(half, None)))
    }
    return max(area, key=lambda quarter: area[quarter])


def _places(mask: _Bools, rows: tuple[int, int]) -> list[str]:
    """Names, for each side with foreground, the thirds of the lung that hold a fair part of it."""
    half = mask.shape[1] // 2
    places = []
    for side, part in (("left", mask[:, :half]), ("right", mask[:, half:])):
        thirds = np.array_split(part[slice(*rows)].sum(axis=1), 3)
        shares = np.array([third.sum() for third in thirds]) / max(part.sum(), 1)
        levels = np.array(["upper", "middle", "lower"])[shares >= 0.2]
        if part.any():
            places.append(f"{'all' if len(levels) == 3 else ' '.join(levels)} {side} lung")
    return places


# --- Brushes: unit coordinates (x to the right, y down) on an n x n canvas -------------------


def _pixels(n: int, points: _Points) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * n * 2**_SHIFT), np.int32)


def _union(layers: _Bools) -> _Bools:
    return np.asarray(layers.any(axis=0))


def _fill(n: int, *outlines: _Points) -> _Bools:
    canvas = np.zeros((n, n), np.uint8)
    cv2.fillPoly(canvas, [_pixels(n, outline) for outline in outlines], 1, shift=_SHIFT)
    return canvas.view(np.bool_)


def _blob(
    rng: _Rng,
    centre: Sequence[float] | _Points,
    radii: tuple[float, float],
    angle: float = 0.0,
    bumps: float = 0.0,
    taper: float = 0.0,
) -> _Points:
    """Outline `[40, 2]` of an ellipse with a wavy edge; `taper` sharpens its two ends."""
    t = np.arange(40) * (2 * np.pi / 40)
    orders = np.array([[2], [3], [5]])
    wavy = 1 + bumps * (np.cos(orders * t + rng.uniform(0, 2 * np.pi, (3, 1))) / orders).sum(axis=0)
    x = radii[0] * wavy * np.cos(t)
    y = radii[1] * wavy * np.sin(t) * np.abs(np.sin(t)) ** taper
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(np.stack([x, y], axis=1) @ turn + np.asarray(centre))


def _lines(n: int, paths: Sequence[_Points], width: float) -> _Floats:
    canvas = np.zeros((n, n), np.float32)
    pixels = [_pixels(n, path) for path in paths]
    cv2.polylines(canvas, pixels, False, 1.0, max(1, round(width * n)), shift=_SHIFT)
    return canvas


def _soft(layer: _Bools | _Floats, sigma: float) -> _Floats:
    radius = max(sigma * layer.shape[0], 0.3)
    return np.asarray(cv2.GaussianBlur(layer.astype(np.float32), (0, 0), radius))


def _noise(rng: _Rng, n: int, *cells: int) -> _Floats:
    """Smooth noise around 0 with so many bumps per column and per row."""
    grid = rng.standard_normal((cells[0], cells[-1])).astype(np.float32)
    return np.asarray(cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC))


def _shrink(layer: _Bools | _Floats, size: int) -> _Floats:
    floats = layer.astype(np.float32)
    return np.asarray(cv2.resize(floats, (size, size), interpolation=cv2.INTER_AREA))


def _scene(image: _Floats, kinds: _Bools | _Floats, size: int, rows: tuple[int, int]) -> _Scene:
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return _Scene(pixels, np.stack([_shrink(kind, size) > 0.5 for kind in kinds]), rows)


# --- Nuclei: densities of three stains, turned into light at the end --------------------------


def _draw_nuclei(size: int, rng: _Rng) -> _Scene:
    n = 2 * size
    along, across = _fibre_coordinates(n, rng)
    streaks = cv2.remap(
        _noise(rng, n, 60, 10), along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    hole = _blob(rng, rng.uniform(0, 1, 2), (0.14, 0.08), rng.uniform(0, np.pi), 0.2)
    nuclei = _place_nuclei(rng, hole, across)
    kinds = np.stack([_fill(n, *(outline for outline, _ in kind)) for kind in nuclei])
    uptake = np.zeros((n, n), np.float32)
    for outline, dye in (*nuclei[0], *nuclei[1]):
        cv2.fillPoly(uptake, [_pixels(n, outline)], dye, shift=_SHIFT)
    dark, pale = _soft(kinds[0], 0.003), _soft(kinds[1], 0.003)
    tissue = 1 - _soft(_fill(n, hole), 0.006)

    clumps = (1 + 0.4 * _noise(rng, n, 80) * dark + 0.2 * _noise(rng, n, 110)).clip(0.65, 1.6)
    rim = 1 + 1.2 * dark * (1 - dark) + 1.2 * pale * (1 - pale)
    haematoxylin = _soft(uptake, 0.003) * clumps * rim
    haematoxylin += tissue * (0.10 + 0.05 * _noise(rng, n, 6))
    eosin = tissue * (0.42 + 0.13 * streaks + 0.10 * _noise(rng, n, 5) + 0.04 * _noise(rng, n, 90))
    eosin *= 1 - 0.7 * dark - 0.25 * pale
    blood = _soft(_red_cells(n, rng) & ~_union(kinds), 0.003) * (1 + 0.1 * _noise(rng, n, 40))

    stains = np.stack([haematoxylin, eosin * (1 - blood), 0.55 * blood], axis=-1).clip(0)
    stains *= rng.uniform(0.65, 1.35, 3).astype(np.float32)  # laboratories stain differently
    lamp = rng.uniform(0.92, 1) + 0.03 * _noise(rng, n, 3)
    tint = _STAINS * rng.normal(1, 0.06, _STAINS.shape).astype(np.float32)
    image = _shrink(np.exp(-stains @ tint) * lamp[..., None], size)
    image += rng.normal(0, 0.012, image.shape)
    return _scene(image, kinds, size, (0, size))


def _fibre_coordinates(n: int, rng: _Rng) -> tuple[_Floats, _Floats]:
    """Pixel coordinates along and across gently waving fibres of a random direction."""
    y, x = np.mgrid[:n, :n].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle) + 0.05 * n * _noise(rng, n, 4)
    return along.astype(np.float32), across.astype(np.float32)


def _place_nuclei(
    rng: _Rng, hole: _Points, across: _Floats
) -> tuple[list[_Nucleus], list[_Nucleus]]:
    """Throws nuclei outside the hole until each kind covers its share of the image."""
    taken = _fill(_GRID, hole)
    nuclei: tuple[list[_Nucleus], list[_Nucleus]] = ([], [])
    share, goals = np.zeros(2), rng.uniform(0.06, 0.14, 2)
    foci = rng.uniform(0.15, 0.85, (2, 2))
    for _ in range(300):
        kind = int(np.argmin(share / goals))  # taking turns keeps the areas of the kinds alike
        if share[kind] >= goals[kind]:
            break
        clustered = rng.random() < 0.5
        centre = (rng.normal(foci[kind], 0.15) if clustered else rng.random(2)).clip(0, 0.98)
        if kind == 0:
            radius, dye = rng.uniform(0.028, 0.042), rng.uniform(0.8, 1.5)
            oval = (radius, radius * rng.uniform(0.85, 1))
            outline = _blob(rng, centre, oval, rng.uniform(0, np.pi), bumps=0.05)
        else:
            x, y = (centre * across.shape[0]).astype(int)
            slope_x, slope_y = across[y, x + 1] - across[y, x], across[y + 1, x] - across[y, x]
            along = np.arctan2(-slope_x, slope_y)  # a level line of the coordinate across
            oval, dye = (rng.uniform(0.06, 0.09), rng.uniform(0.020, 0.028)), rng.uniform(0.5, 0.95)
            outline = _blob(rng, centre, oval, along + rng.normal(0, 0.15), bumps=0.06, taper=0.4)
        around = _fill(_GRID, centre + 1.15 * (outline - centre))
        if not (taken & around).any():
            taken |= around
            share[kind] += cv2.contourArea(outline.astype(np.float32))
            nuclei[kind].append((outline, dye))
    return nuclei


def _red_cells(n: int, rng: _Rng) -> _Bools:
    """Distractors: round like one kind of nucleus and pale like the other, but neither."""
    centres = rng.normal(rng.uniform(0.1, 0.9, 2), 0.12, (rng.integers(3, 14), 2))
    return _fill(n, *(_blob(rng, centre, (0.024, 0.021), bumps=0.05) for centre in centres))


# --- Lungs: lesions common to both looks ------------------------------------------------------


def _place_lesions(n: int, rng: _Rng, lungs: _Bools) -> _Bools:
    """Puts one to three lesions of each kind into the lungs `[2, n, n]` (left, right)."""
    rooms = [_shrink(lung, _GRID) > 0.5 for lung in lungs]
    inside = [np.argwhere(room)[:, ::-1] / _GRID for room in rooms]
    kinds, near = np.zeros((2, n, n), bool), np.zeros((_GRID, _GRID), bool)
    counts = rng.choice([1, 2, 3], size=2, p=[0.45, 0.4, 0.15])
    radii = np.sqrt(rng.uniform(0.05, 0.09, 2) / counts / np.pi)
    for kind in rng.permutation(np.repeat([0, 1], counts)):
        radius = radii[kind]
        while True:  # ends because ever smaller lesions are tried
            side, stretch = rng.integers(2), rng.uniform(1, 1.3)
            oval, lean = (radius * stretch, radius / stretch), rng.normal(np.pi / 2, 0.5)
            outline = _blob(rng, rng.choice(inside[side]), oval, lean, bumps=0.2)
            whole = _fill(_GRID, outline)
            fits = (whole & rooms[side]).sum() > 0.75 * whole.sum()
            if fits and not (whole & near).any():
                break
            radius *= 0.99
        kinds[kind] |= _fill(n, outline) & lungs[side]
        near |= _soft(whole, 0.015) > 0.02  # leaves a gap, so that lesions can be counted
    return kinds


def _opacify(grey: _Floats, kinds: _Bools, rng: _Rng, level: float) -> _Floats:
    """Fills the first kind up to `level`, hiding what lies beneath, and veils the second."""
    n = grey.shape[0]
    solid = _soft(kinds[0], 0.003) * 0.9
    veil = _soft(kinds[1], 0.022) * rng.uniform(0.38, 0.56) * (1 + 0.3 * _noise(rng, n, 24))
    veiled: _Floats = grey + veil * (level - grey)
    return veiled + solid * (level + 0.05 * _noise(rng, n, 30) - veiled)


def _vessels(n: int, rng: _Rng, hilum: tuple[float, float], reach: float) -> _Floats:
    """Branches that wander outward from the hilum and thin out on the way."""
    outward = np.sign(hilum[0] - 0.5)
    layer = np.zeros((n, n), np.float32)
    for angle in np.linspace(-1.5, 1.5, 8) + rng.normal(0, 0.1, 8):
        heading = angle + np.cumsum(rng.normal(0, 0.25, 12))
        steps = np.stack([outward * np.cos(heading), np.sin(heading)], axis=1) * reach / 12
        path = np.array(hilum) + np.cumsum(steps, axis=0)
        turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
        forks = [path[3] + (path[3:9] - path[3]) @ turn, path[6] + (path[6:] - path[6]) @ turn.T]
        for width, *pieces in ((0.013, path[:4]), (0.008, path[3:8]), (0.005, path[7:], *forks)):
            layer = np.maximum(layer, _lines(n, pieces, width))
    return _soft(layer, 0.002)


def _pair(n: int, rng: _Rng, points: Sequence[tuple[float, float]]) -> _Bools:
    """A left shape and its mirror image `[2, n, n]`, rounded, and not quite alike."""
    outlines = np.array(points) + rng.normal(0, 0.008, (2, len(points), 2))
    outlines[1, :, 0] = 1 - outlines[1, :, 0]
    return np.stack([_soft(_fill(n, outline), 0.015) > 0.5 for outline in outlines])


def _lung_scene(
    grey: _Floats, kinds: _Bools, lungs: _Bools, size: int, rng: _Rng, grain: float
) -> _Scene:
    """Varies build, posture, illumination and contrast, so that no fixed grey level helps."""
    n = grey.shape[0]
    pose = cv2.getRotationMatrix2D((0, 0), rng.uniform(-2, 2), 1)
    pose[:, :2] *= rng.uniform(0.93, 1.05, (2, 1))
    pose[:, 2] = n * (0.5 - pose[:, :2] @ (0.5, 0.5) + rng.uniform((-0.006, -0.02), (0.006, 0.02)))

    def move(layer: _Bools | _Floats) -> _Floats:
        floats = layer.astype(np.float32)
        return np.asarray(cv2.warpAffine(floats, pose, (n, n), borderMode=cv2.BORDER_REPLICATE))

    lit = move(grey) * rng.uniform(0.85, 1.1) + 0.03 * _noise(rng, n, 3)
    small = _shrink(lit.clip(0, 1.2) ** rng.uniform(0.8, 1.25), size)
    image = np.repeat((small + rng.normal(0, grain, small.shape))[..., None], 3, axis=-1)
    lung_rows = np.flatnonzero(_shrink(move(_union(lungs)), size).max(axis=1) > 0.5)
    rows = int(lung_rows[0]), int(lung_rows[-1]) + 1
    return _scene(image, np.stack([move(kind) for kind in kinds]), size, rows)


# --- Chest film: everything in the beam adds up ----------------------------------------------


def _draw_xray(size: int, rng: _Rng) -> _Scene:
    n = 2 * size
    body = _fill(n, _XRAY_BODY)
    heart = _fill(n, _blob(rng, (0.55, 0.66), (rng.uniform(0.14, 0.19), 0.13), 0.5, 0.03))
    heart |= _fill(n, _blob(rng, (0.56, 0.31), (0.05, 0.06)))  # aortic knob
    lungs = _pair(n, rng, _XRAY_LUNG) & ~heart
    kinds = _place_lesions(n, rng, lungs)
    air = _soft(_union(lungs), 0.006)

    grey = 0.66 * _soft(body, 0.01) - 0.42 * air * (1 + 0.12 * _noise(rng, n, 5))
    grey += 0.06 * _soft(heart, 0.008)
    for side in (-1, 1):
        grey += 0.11 * air * _vessels(n, rng, (0.5 + 0.08 * side, 0.44), 0.36)
    grey = _opacify(grey, kinds, rng, level=0.58)
    return _lung_scene(grey + _bones(n, rng), kinds, lungs, size, rng, grain=0.018)


def _bones(n: int, rng: _Rng) -> _Floats:
    """Ribs, collar bones and spine with bright rims, and the dark windpipe before the spine."""
    t = np.linspace(0, 1, 12)
    first, gap = rng.uniform(0.10, 0.14), rng.uniform(0.085, 0.10)
    back, front, collar = [], [], []
    for side in (-1, 1):
        for i in range(9):
            x = 0.5 + side * (0.03 + (0.27 + 0.02 * min(i, 5)) * np.sin(t * np.pi / 2))
            y = first + gap * i - 0.05 * np.sin(t * 2.2) + (0.03 + 0.014 * i) * t**2
            back.append(np.stack([x, y], axis=1))
            x = 0.5 + side * (0.14 + (0.20 + 0.015 * min(i, 5)) * np.cos(t * np.pi / 2))
            front.append(np.stack([x, first + 0.09 + gap * i + 0.10 * t], axis=1))
        x, y = 0.5 + side * (0.05 + 0.36 * t), 0.2 - 0.11 * t + 0.02 * np.sin(2 * np.pi * t)
        collar.append(np.stack([x, y], axis=1))
    vertebrae = [np.array([[0.475, y], [0.525, y]]) for y in np.arange(0.02, 1, 0.065)]
    windpipe = _lines(n, [np.array([[0.5, 0], [0.5, 0.36]])], 0.045)
    layers = ((back, 0.026, 0.10), (front, 0.024, 0.05), (collar, 0.03, 0.12))
    bones = 0.07 * _soft(_lines(n, vertebrae, 0.045), 0.006) - 0.10 * _soft(windpipe, 0.008)
    for paths, width, weight in layers:
        bone = _soft(_lines(n, paths, width), 0.003)
        bones += weight * (1.5 * bone - 0.8 * _soft(bone, 0.008))
    return bones


# --- CT slice: one value per tissue, painted over one another from the skin inward -------------


def _draw_ct(size: int, rng: _Rng) -> _Scene:
    n = 2 * size
    heart = _fill(n, _blob(rng, (0.55, 0.40), (rng.uniform(0.12, 0.16), 0.11), -0.4, 0.03))
    lungs = _pair(n, rng, _CT_LUNG) & ~heart
    kinds = _place_lesions(n, rng, lungs)
    air = _soft(_union(lungs), 0.003)

    grey = np.zeros((n, n), np.float32)
    for layer, value in (*_chest_wall(n, rng), (heart, 0.70)):
        grey = grey + _soft(layer, 0.003) * (value - grey)
    grey += 0.03 * _noise(rng, n, 16) * (grey > 0.4)
    grey += air * (0.13 + 0.02 * _noise(rng, n, 20) - grey)
    for side in (-1, 1):
        grey += 0.42 * air * _vessels(n, rng, (0.5 + 0.09 * side, 0.53), 0.30)
    grey = _opacify(grey, kinds, rng, level=0.62)
    return _lung_scene(grey, kinds, lungs, size, rng, grain=0.022)


def _chest_wall(n: int, rng: _Rng) -> list[tuple[_Bools | _Floats, float]]:
    """Layers with their values: table, fat, muscle, ribs, breastbone, vertebra, aorta."""
    t = np.linspace(0, 2 * np.pi, 100)
    ring = np.stack([0.5 + 0.405 * np.cos(t), 0.51 + 0.335 * np.sin(t)], axis=1)
    ribs = [ring[start : start + 9] for start in rng.permutation(np.arange(0, 90, 13))]
    table = np.stack([0.5 + 0.45 * np.cos(t[5:46]), 0.83 + 0.14 * np.sin(t[5:46])], axis=1)
    spikes = [np.array([[0.5, 0.79], [0.5 + dx, 0.79 + dy]]) for dx, dy in _SPIKES]
    return [
        (_lines(n, [table], 0.008), 0.3),
        (_fill(n, _blob(rng, (0.5, 0.52), (0.46, 0.405), bumps=0.01)), 0.42),
        (_fill(n, _blob(rng, (0.5, 0.52), (0.435, 0.37), bumps=0.01)), 0.62),
        (_lines(n, ribs, 0.026), 0.95),
        (_lines(n, ribs, 0.010), 0.75),
        (_fill(n, _blob(rng, (0.5, 0.172), (0.06, 0.016))), 0.9),
        (_lines(n, spikes, 0.024), 0.9),
        (_fill(n, _blob(rng, (0.5, 0.73), (0.062, 0.05))), 0.98),
        (_fill(n, _blob(rng, (0.5, 0.73), (0.050, 0.038))), 0.80),
        (_fill(n, _blob(rng, (0.5, 0.798), (0.024, 0.018))), 0.6),
        (_fill(n, _blob(rng, (0.555, 0.675), (0.036, 0.036))), 0.72),
    ]


_SCENES: dict[Look, Callable[[int, _Rng], _Scene]] = {
    "nuclei": _draw_nuclei,
    "xray": _draw_xray,
    "ct": _draw_ct,
}
