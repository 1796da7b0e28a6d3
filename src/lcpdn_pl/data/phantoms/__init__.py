"""Drawn images whose report decides the mask: data for the demo and the tests, without a download.

Every phantom shows two kinds of target structure and its report names one of them (sometimes
both). Only the named kinds are foreground, so an image alone does not determine its mask. As in
the public report lines, a report's upper, middle and lower are image rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.data.phantoms.ct import draw_ct
from lcpdn_pl.data.phantoms.drawing import Rng, union
from lcpdn_pl.data.phantoms.nuclei import draw_nuclei
from lcpdn_pl.data.phantoms.reports import describe
from lcpdn_pl.data.phantoms.scene import LOOKS, Look, Scene
from lcpdn_pl.data.phantoms.xray import draw_xray
from lcpdn_pl.errors import ConfigError

__all__ = ["LOOKS", "Look", "Phantom", "draw_phantom"]

_MIN_SIZE = 32  # below this, single nuclei fall between the pixels
_BOTH_KINDS_SHARE = 0.15
_SCENES: dict[Look, Callable[[int, Rng], Scene]] = {
    "nuclei": draw_nuclei,
    "xray": draw_xray,
    "ct": draw_ct,
}


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


def draw_phantom(look: Look, size: int, rng: np.random.Generator) -> Phantom:
    """Draws one image, the report that goes with it and the mask of what the report names.

    Args:
        look: `nuclei` (stained tissue), `xray` (frontal chest film) or `ct` (axial chest slice).
        size: Height and width in pixels, at least 32.
        rng: Source of every choice; the same state draws the same bytes.

    Returns:
        The phantom. Its mask is never empty and covers less than 45 % of the image.

    Raises:
        ConfigError: If `look` is not one of `LOOKS` or `size` is below 32.
    """
    if look not in LOOKS:
        raise ConfigError(f"unknown look {look!r}: choose one of {', '.join(LOOKS)}")
    if size < _MIN_SIZE:
        raise ConfigError(
            f"data.image_size is {size}, but a phantom needs at least {_MIN_SIZE} pixels. Raise it."
        )
    both = rng.random() < _BOTH_KINDS_SHARE
    kind = int(rng.integers(2))
    return _phantom(look, size, rng, named=(0, 1) if both else (kind,))


def _phantom(look: Look, size: int, rng: Rng, *, named: Sequence[int]) -> Phantom:
    scene = _SCENES[look](size, rng)
    mask = union(scene.kinds[list(named)])
    report = describe(look, mask, scene.rows, named, rng)
    return Phantom(scene.image, np.where(mask, 255, 0).astype(np.uint8), report)
