"""The two rules by which a mask is brought to another size."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.metrics import IGNORE

MaskRule = Literal["compat", "native"]


def resize_mask(
    mask: NDArray[np.uint8], size: tuple[int, int], rule: MaskRule
) -> NDArray[np.uint8]:
    """Brings a mask to a size.

    Args:
        mask: [H, W] in {0, 1, 255}, 255 being ignored pixels.
        size: Height and width of the result.
        rule: ``compat`` is the rule of the public codes, on which published figures were scored:
            bilinear, then foreground wherever the result is not black, which grows every border.
            ``native`` takes the nearest pixel.

    Returns:
        The mask at that size, in {0, 1, 255}.
    """
    shape = size[::-1]  # OpenCV wants width first.
    nearest = cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST_EXACT)
    if rule == "native":
        return np.asarray(nearest, np.uint8)
    grey = cv2.resize((mask == 1).astype(np.uint8) * 255, shape, interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(nearest == IGNORE, IGNORE, grey > 0), np.uint8)
