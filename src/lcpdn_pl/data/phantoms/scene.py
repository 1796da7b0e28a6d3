"""What drawing a look results in, before a report has chosen the foreground."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.data.phantoms.drawing import Bools, Floats, shrink

Look = Literal["nuclei", "xray", "ct"]
LOOKS: tuple[Look, ...] = get_args(Look)


@dataclass(frozen=True)
class Scene:
    """A picture and the structures in it.

    Attributes:
        image: RGB picture, uint8 `[size, size, 3]`.
        kinds: Masks of the two kinds of structure, `[2, size, size]`.
        rows: First image row and last row + 1 of what upper, middle and lower divide.
    """

    image: NDArray[np.uint8]
    kinds: Bools
    rows: tuple[int, int]


def finish(image: Floats, kinds: Bools | Floats, rows: tuple[int, int]) -> Scene:
    """Rounds an image to bytes and shrinks the kinds' canvases to its size."""
    pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return Scene(pixels, np.stack([shrink(kind, len(image)) > 0.5 for kind in kinds]), rows)
