"""Ends of LTFR's gate, and cross-attention head by head."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.models.lcpdn.fusion import LTFR, CrossAttention, tile_index

VALID = torch.tensor([[True, True, False, False, False], [True] * 5])


def tokens(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_token_meets_every_position() -> None:
    assert tile_index(torch.tensor([[True, False]]), 3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_a_shut_gate_keeps_the_image_and_an_open_one_the_fusion(bias: float) -> None:
    torch.manual_seed(0)
    ltfr = LTFR(8)
    with torch.no_grad():
        ltfr.gate.bias.fill_(bias)
    image, report = tokens(1, 2, 7, 8), tokens(2, 2, 5, 8)
    index = torch.tensor([[0, 1, 0, 1, 0, 1, 0], [0, 1, 2, 3, 4, 0, 1]])
    tiled = torch.stack([report[b, index[b]] for b in range(2)])
    fused = ltfr.fuse(F.gelu(ltfr.concat(torch.cat([image, tiled], dim=-1))))
    wanted = (image if bias < 0 else fused) * image
    torch.testing.assert_close(ltfr(image, report, VALID), wanted, atol=1e-5, rtol=1e-5)


def test_cross_attention_head_by_head() -> None:
    torch.manual_seed(0)
    block = CrossAttention(8)
    image, report = tokens(1, 2, 7, 8), tokens(2, 2, 5, 8)
    with torch.no_grad():
        block.norm.weight.uniform_(0.5, 2)
        block.attention.in_proj_bias.uniform_(-1, 1)
    weights = block.attention.in_proj_weight.chunk(3)
    biases = block.attention.in_proj_bias.chunk(3)
    sources = F.layer_norm(image, (8,), block.norm.weight, block.norm.bias), report, report
    query, key, value = (
        F.linear(source, weight, bias)
        for source, weight, bias in zip(sources, weights, biases, strict=True)
    )
    heads = [
        F.scaled_dot_product_attention(
            query[..., part], key[..., part], value[..., part], attn_mask=VALID[:, None]
        )
        for part in (slice(start, start + 2) for start in range(0, 8, 2))
    ]
    wanted = image + block.attention.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(image, report, VALID), wanted, atol=1e-5, rtol=1e-5)
