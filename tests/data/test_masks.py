"""The two mask rules, on cases drawn by hand and against OpenCV's own filters."""

import cv2
import numpy as np
import pytest

from lcpdn_pl.data.masks import MaskRule, resize_mask


def test_compat_grows_a_border_that_native_drops() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], np.uint8)
    # Nearest takes the last pixel of each block of 2 x 2; bilinear averages the block.
    assert resize_mask(mask, (2, 2), "native").tolist() == [[1, 0], [0, 1]]
    mask[3, 3], mask[2, 2] = 0, 1
    assert resize_mask(mask, (2, 2), "native").tolist() == [[1, 0], [0, 0]]
    assert resize_mask(mask, (2, 2), "compat").tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("size", [(32, 24), (50, 70), (120, 90)])
def test_rules_against_opencv(size: tuple[int, int]) -> None:
    mask = (np.random.default_rng(1).random((64, 48)) > 0.9).astype(np.uint8)
    shape = size[::-1]
    bilinear = cv2.resize(mask * 255, shape, interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST_EXACT)
    compat, native = resize_mask(mask, size, "compat"), resize_mask(mask, size, "native")
    assert compat.shape == native.shape == size
    assert compat.dtype == native.dtype == np.uint8
    assert np.array_equal(compat, (bilinear > 0).astype(np.uint8))
    assert np.array_equal(native, nearest)
    assert compat.sum() > native.sum()


@pytest.mark.parametrize("rule", ["compat", "native"])
def test_ignored_pixels_stay_ignored_and_do_not_spread(rule: MaskRule) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4], mask[4:, 4:] = 255, 1
    wanted = [[255, 255, 0, 0]] * 2 + [[255, 255, 1, 1]] * 2
    assert resize_mask(mask, (4, 4), rule).tolist() == wanted
    assert resize_mask(mask, (8, 8), rule).tolist() == mask.tolist()
