"""Masks that were moved away from their images are told from those that were not."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from lcpdn_pl.data.checks.outlines import FARTHEST, displacement, fit
from lcpdn_pl.data.phantoms import LOOKS, Look, draw_phantom


def pairs(
    look: Look, count: int = 24, size: int = 128
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    for seed in range(count):
        phantom = draw_phantom(look, size, np.random.default_rng(seed))
        yield phantom.image[..., 1], phantom.mask == 255


@pytest.mark.parametrize("look", LOOKS)
def test_direction_and_distance(look: Look) -> None:
    drawn = list(pairs(look))
    assert displacement([fit(image, mask) for image, mask in drawn]) is None
    moved = [fit(image, np.roll(mask, (6, -10), (0, 1))) for image, mask in drawn]
    found = displacement(moved)
    assert found is not None
    assert found == pytest.approx((-6 / 128, 10 / 128), abs=1 / 128)
    assert displacement(moved[:9]) is None  # too few to tell


def test_rounding_is_no_displacement() -> None:
    fits = [fit(image, np.roll(mask, (1, -2), (0, 1))) for image, mask in pairs("nuclei")]
    assert displacement(fits) is None


def test_chance_is_no_displacement() -> None:
    """On pictures of noise, the best place is anywhere."""
    rng = np.random.default_rng(0)
    masks = [mask for _, mask in pairs("xray", 20, 64)]
    fits = [fit(rng.integers(0, 256, mask.shape, np.uint8), mask) for mask in masks]
    mean = np.stack(fits).astype(float).mean(axis=0)
    best = np.unravel_index(mean.argmax(), mean.shape)
    assert max(abs(int(index) - FARTHEST) for index in best) > 3
    assert displacement(fits) is None


@pytest.mark.parametrize("grey", [0, 255])
def test_images_that_show_nothing(grey: int) -> None:
    image = np.full((40, 60), grey, np.uint8)
    mask = np.zeros((40, 60), np.bool_)
    mask[10:20, 10:30] = True
    found = fit(image, mask)
    assert found.shape == (2 * FARTHEST + 1,) * 2
    assert np.isfinite(found).all()
    assert displacement([found] * 20) is None
