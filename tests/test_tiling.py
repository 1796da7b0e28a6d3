"""Where tiles lie, and that their weights are a partition of one."""

import numpy as np
import pytest

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.tiling import Tiling


def test_the_image_is_one_tile() -> None:
    tiling = Tiling.whole(30, 50)
    assert (tiling.tile, tiling.tops, tiling.lefts, tiling.count) == ((30, 50), [0], [0], 1)


def test_evenly_spread_and_no_more_than_needed() -> None:
    tiling = Tiling.of(100, 40, 40, 0.25)
    # A stride of 30 at most: 0, 30, 60.
    assert (tiling.tops, tiling.lefts, tiling.tile) == ([0, 30, 60], [0], (40, 40))
    assert Tiling.of(101, 40, 40, 0.25).tops == [0, 20, 41, 61]
    assert Tiling.of(100, 40, 40, 0).tops == [0, 30, 60]
    assert Tiling.of(80, 40, 40, 0).tops == [0, 40]
    assert Tiling.of(30, 80, 40, 0.5).count == 3


@pytest.mark.parametrize("overlap", [0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("size", [(100, 37), (40, 41), (16, 333), (7, 5)])
def test_weights_sum_to_one(size: tuple[int, int], overlap: float) -> None:
    tiling = Tiling.of(*size, 40, overlap)
    total = np.zeros(size)
    rows, columns = tiling.weights()
    for top, down in zip(tiling.tops, rows, strict=True):
        for left, along in zip(tiling.lefts, columns, strict=True):
            assert down.min() > 0
            total[top : top + len(down), left : left + len(along)] += np.outer(down, along)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_fall_towards_a_neighbour_alone() -> None:
    (first, second), _ = Tiling.of(60, 40, 40, 0.5).weights()
    np.testing.assert_allclose(first[:20], 1)
    assert (np.diff(first[20:]) < 0).all()
    assert first[20] > 0.99
    np.testing.assert_allclose(first[20:] + second[:20], 1, rtol=1e-6)
    # Hann windows half a side apart: cos^2 and sin^2.
    place = np.pi * (np.arange(20) + 0.5) / 40
    np.testing.assert_allclose(second[:20], np.sin(place) ** 2, rtol=1e-5)


@pytest.mark.parametrize("overlap", [-0.1, 0.6])
def test_overlap_out_of_range(overlap: float) -> None:
    with pytest.raises(ConfigError, match=rf"overlap={overlap} must be a share"):
        Tiling.of(100, 100, 40, overlap)
