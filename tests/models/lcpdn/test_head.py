"""From scales to logits, against the steps written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.lcpdn.head import ConcatHead, PyramidHead


@pytest.fixture
def scales() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, side, side, generator=generator) for side in (8, 2, 4)]


def enlarged(scale: Tensor, side: int) -> Tensor:
    return F.interpolate(scale, (side, side), mode="bilinear", align_corners=False)


def test_concat_classifies_all_scales_at_the_finest_size(scales: list[Tensor]) -> None:
    head = ConcatHead(4, 3, (6, 5))
    hidden = torch.cat([enlarged(scale, 8) for scale in scales], dim=1)
    for layer in head.classify:
        hidden = layer(hidden)
    assert hidden.shape == (2, 2, 8, 8)
    torch.testing.assert_close(head(scales, (16, 16)), enlarged(hidden, 16))
    torch.testing.assert_close(head(scales, (8, 8)), hidden)


def test_pyramid_goes_from_coarse_to_fine(scales: list[Tensor]) -> None:
    head = PyramidHead(4, [2, 8, 4, 4], [5, 6, 7])
    fine, coarse, middle = scales
    mixed = head.mix[0](coarse)
    assert mixed.shape == (2, 7, 2, 2)
    mixed = head.mix[1](torch.cat([enlarged(mixed, 4), middle, -middle], dim=1))
    assert mixed.shape == (2, 6, 4, 4)
    mixed = head.mix[2](torch.cat([enlarged(mixed, 8), fine], dim=1))
    logits = head([fine, coarse, middle, -middle], (16, 16))
    assert logits.shape == (2, 2, 16, 16)
    torch.testing.assert_close(logits, enlarged(head.classify(mixed), 16))


def test_pyramid_brings_a_level_to_one_size(scales: list[Tensor]) -> None:
    """An encoder with a size of its own gives maps that are near a level's size, not of it."""
    head = PyramidHead(4, [4, 4], [5])
    odd = scales[2][..., :3, :3]
    mixed = head.mix[0](torch.cat([enlarged(odd, 4), scales[2]], dim=1))
    torch.testing.assert_close(head([odd, scales[2]], (4, 4)), head.classify(mixed))


def test_pyramid_with_another_number_of_widths() -> None:
    with pytest.raises(ConfigError, match=r"head_widths=\[5, 6\].*there are 3, of strides \[2, 4"):
        PyramidHead(4, [2, 8, 4], [5, 6])


@pytest.mark.parametrize("head", [ConcatHead(4, 3, (6, 5)), PyramidHead(4, [1, 4, 2], (4, 5, 6))])
def test_every_scale_counts(head: ConcatHead | PyramidHead, scales: list[Tensor]) -> None:
    logits = head(scales, (8, 8))
    for index in range(3):
        other = [scale + (index == k) * scales[k].flip(-1) for k, scale in enumerate(scales)]
        assert (head(other, (8, 8)) - logits).abs().max() > 1e-4
