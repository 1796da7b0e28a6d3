"""Whether masks lie where their images show something, or all of them a little beside it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FARTHEST = 16
"""Displacements that are looked at, in each direction, of a picture that is `_SIDE` wide."""

_SIDE = 128
_NEAR = 3  # resizing and rounding move outlines by up to 1
_FEWEST = 10
_SURE = 4.0  # see `displacement`


def fit(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float16]:
    """How well a mask's outline lies on edges of the image, were the mask elsewhere.

    Args:
        image: Grey picture [H, W].
        mask: Foreground [H, W].

    Returns:
        Correlation of both outlines [2 * FARTHEST + 1] * 2 for each displacement of the mask, down
        and to the right; none is in the middle.
    """
    shown, wanted = _edges(image.astype(np.float32)), _edges(mask.astype(np.float32))
    spectrum = np.fft.rfft2(shown) * np.fft.rfft2(wanted).conj()
    scale = max(float(np.linalg.norm(shown) * np.linalg.norm(wanted)), 1e-9)
    found = np.fft.irfft2(spectrum, shown.shape) / scale
    size = 2 * FARTHEST + 1
    return np.roll(found, (FARTHEST, FARTHEST), (0, 1))[:size, :size].astype(np.float16)


def displacement(fits: Sequence[NDArray[np.float16]]) -> tuple[float, float] | None:
    """The displacement of all masks that would fit their images far better than none.

    One mask fits best where chance has it, but the mean over many fits best where they belong. It
    has to be better than no displacement by four standard errors. Of 10 pairs or more, drawn from
    MoNuSeg, QaTa-COV19, MosMedData+ and phantoms, none reached 3; of such pairs moved by 4 % of
    their side most reached 4. Masks on pictures of noise reach it in 1 of 40 draws of 20 pairs.

    Args:
        fits: Of the masks of one split, see `fit`.

    Returns:
        Shares of the height, down, and of the width, to the right; None if they fit best where
        they are, if it cannot be told, or if there are too few to tell.
    """
    if len(fits) < _FEWEST:
        return None
    each = np.stack(fits).astype(np.float32)
    place = np.unravel_index(each.mean(axis=0).argmax(), each.shape[1:])
    down, right = (int(index) - FARTHEST for index in place)
    gain = each[:, place[0], place[1]] - each[:, FARTHEST, FARTHEST]
    error = float(gain.std(ddof=1)) / len(gain) ** 0.5
    if max(abs(down), abs(right)) <= _NEAR or gain.mean() <= _SURE * error:
        return None
    return down / _SIDE, right / _SIDE


def _edges(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the edges of a picture, zero in the mean."""
    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), 1)
    strength = np.hypot(*(cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))))
    strength[strength < 0.01] = 0  # rounding, which is all that a picture of one colour has
    return np.asarray(strength - strength.mean(), np.float32)
