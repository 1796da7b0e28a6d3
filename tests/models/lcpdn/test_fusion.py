"""Ends of LTFR's gate, and cross-attention head by head."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.models.lcpdn.fusion import LTFR, CrossAttention, place_code, tile_index

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
    found = ltfr(image.transpose(1, 2).unsqueeze(2), report, VALID)
    torch.testing.assert_close(found[:, :, 0].transpose(1, 2), wanted, atol=1e-5, rtol=1e-5)


def test_place_code_is_sines_and_cosines_of_rows_then_columns() -> None:
    code = place_code(2, 4)
    for row, u in enumerate((-0.5, 0.5)):
        for column, v in enumerate((-0.75, -0.25, 0.25, 0.75)):
            angles = [math.pi * f * x for x in (u, v) for f in (0.5, 1.0, 2.0, 4.0)]
            wanted = [*map(math.sin, angles), *map(math.cos, angles)]
            assert code[4 * row + column].tolist() == pytest.approx(wanted, abs=1e-5)
    # One place has one code at every scale: here the centres of the middle of three thirds.
    torch.testing.assert_close(place_code(3, 3)[4], place_code(9, 9)[40])


def test_attending_positions_find_tokens_by_place_and_look() -> None:
    torch.manual_seed(0)
    ltfr = LTFR(8, "attend")
    image, report = tokens(1, 2, 8, 3, 2), tokens(2, 2, 5, 8)
    found = ltfr(image, report, VALID)
    code = place_code(3, 2)
    to_image, to_text = ltfr.concat.weight[:, :8], ltfr.concat.weight[:, 8:]
    for b in range(2):
        known = report[b, : int(VALID[b].sum())]
        key, value = known @ ltfr.key.weight.T, known @ to_text.T + ltfr.concat.bias
        for position in range(6):
            pixel = image[b, :, position // 2, position % 2]
            placed = pixel + ltfr.place.weight @ code[position]
            query = ltfr.query.weight @ placed
            attended = [
                torch.softmax(key[:, part] @ query[part] / math.sqrt(2), dim=0) @ value[:, part]
                for part in (slice(start, start + 2) for start in range(0, 8, 2))
            ]
            fused = ltfr.fuse(F.gelu(to_image @ placed + torch.cat(attended)))
            rate = torch.sigmoid(ltfr.gate(fused))
            wanted = (rate * fused + (1 - rate) * pixel) * pixel
            torch.testing.assert_close(
                found[b, :, position // 2, position % 2], wanted, atol=1e-5, rtol=1e-5
            )


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
    found = block(image.transpose(1, 2).unsqueeze(2), report, VALID)
    torch.testing.assert_close(found[:, :, 0].transpose(1, 2), wanted, atol=1e-5, rtol=1e-5)
