"""Test images made worse on purpose, to measure what a method bears."""

import zlib
from typing import Literal

import cv2
import numpy as np

from lcpdn_pl.data.transforms import Image
from lcpdn_pl.errors import ConfigError

Corruption = Literal["none", "noise", "blur", "jpeg", "contrast"]
STRENGTHS = range(1, 6)

_NOISE = (0.02, 0.04, 0.08, 0.12, 0.18)
"""Standard deviation of Gaussian noise, as a share of the range of values."""
_BLUR = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviation of the Gaussian, in pixels of the image that the network sees."""
_JPEG = (70, 50, 30, 20, 10)
"""Quality."""
_CONTRAST = (0.8, 0.6, 0.45, 0.3, 0.2)
"""Share of each value's distance to the image's mean that is left."""


def corrupt(image: Image, kind: Corruption, strength: int, name: str) -> Image:
    """Makes an image worse.

    Args:
        image: [S, S, 3], as the network sees it.
        kind: Gaussian ``noise``, Gaussian ``blur``, ``jpeg`` compression or less ``contrast``;
            ``none`` returns the image.
        strength: 1 to 5; see the table in ``docs/reproduce.md``.
        name: The sample's name: seed of its noise.

    Raises:
        ConfigError: There is no such strength.
    """
    if strength not in STRENGTHS:
        raise ConfigError(f"test_strength is {strength}: expected a whole number from 1 to 5.")
    index = strength - 1
    if kind == "noise":
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        noisy = image + 255 * _NOISE[index] * rng.standard_normal(image.shape)
        return np.asarray(noisy.round().clip(0, 255), np.uint8)
    if kind == "blur":
        blurred = cv2.GaussianBlur(image, (0, 0), _BLUR[index], borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(blurred, np.uint8)
    if kind == "jpeg":
        # Not by albumentations, which takes red for blue and so keeps the wrong one's detail.
        blue_first = np.ascontiguousarray(image[..., ::-1])
        _, file = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, _JPEG[index]])
        unpacked = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
        return unpacked[..., ::-1]
    if kind == "contrast":
        mean = image.mean(axis=(0, 1))
        faint = mean + _CONTRAST[index] * (image - mean)
        return np.asarray(faint.round(), np.uint8)
    return image
