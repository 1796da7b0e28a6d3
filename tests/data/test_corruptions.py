"""Test images made worse on purpose."""

from io import BytesIO
from itertools import pairwise
from typing import get_args

import cv2
import numpy as np
import PIL.Image
import pytest

from lcpdn_pl.data.corruptions import STRENGTHS, Corruption, corrupt
from lcpdn_pl.errors import ConfigError

RNG = np.random.default_rng(0)
PATCHES = np.kron(RNG.integers(40, 216, (12, 12, 3), np.uint8), np.ones((5, 5, 1), np.uint8))


@pytest.mark.parametrize("kind", get_args(Corruption))
def test_each_strength_is_further_from_the_image(kind: Corruption) -> None:
    worse = [corrupt(PATCHES, kind, strength, "a") for strength in STRENGTHS]
    assert all(image.shape == PATCHES.shape and image.dtype == np.uint8 for image in worse)
    distances = [np.abs(image - PATCHES.astype(float)).mean() for image in worse]
    if kind == "none":
        assert distances == [0] * 5
    else:
        assert distances == sorted(distances)
        assert distances[0] > 0.3
        assert all(b > 1.05 * a for a, b in pairwise(distances))


def test_noise_has_its_deviation_and_is_the_image_s_own() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = corrupt(grey, "noise", 2, "a")
    assert (noisy - 128.0).std() == pytest.approx(255 * 0.04, rel=0.02)
    assert np.array_equal(noisy, corrupt(grey, "noise", 2, "a"))
    assert not np.array_equal(noisy, corrupt(grey, "noise", 2, "b"))


def test_blur_jpeg_and_contrast_are_what_they_are_called() -> None:
    blurred = cv2.GaussianBlur(PATCHES, (0, 0), 1.5, borderType=cv2.BORDER_REFLECT_101)
    assert np.array_equal(corrupt(PATCHES, "blur", 3, "a"), blurred)
    file = BytesIO()
    PIL.Image.fromarray(PATCHES).save(file, "jpeg", quality=30)
    unpacked = np.asarray(PIL.Image.open(file), float)
    assert np.abs(corrupt(PATCHES, "jpeg", 3, "a") - unpacked).mean() < 1
    faint = corrupt(PATCHES, "contrast", 4, "a")
    np.testing.assert_allclose(faint.mean(axis=(0, 1)), PATCHES.mean(axis=(0, 1)), atol=0.5)
    np.testing.assert_allclose(faint.std(), 0.3 * PATCHES.std(), rtol=0.1)


@pytest.mark.parametrize("strength", [0, 6])
def test_other_strengths_are_errors(strength: int) -> None:
    with pytest.raises(ConfigError, match=f"test_strength is {strength}: expected"):
        corrupt(PATCHES, "none", strength, "a")
