"""Equations 1 to 3 and 7 to 10 against plain loops."""

import math

import pytest
import torch
from torch import Tensor

from lcpdn_pl.models.blocks import PixelClassifier
from lcpdn_pl.models.lcpdn.fusion import LTFR, CrossAttention, tile_index
from lcpdn_pl.models.lcpdn.prompt import TextVisionPrompt, masked_mean


def tokens(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mapped(positions: Tensor, rows: int) -> Tensor:
    """[B, P, h] in row order -> [B, h, rows, P / rows]."""
    image: Tensor = positions.transpose(1, 2).unflatten(2, (rows, -1))
    return image


def flat(image: Tensor) -> Tensor:
    """[B, h, H, W] -> [B, P, h] in row order."""
    return image.flatten(2).transpose(1, 2)


VALID = torch.tensor([[True, True, True, False, False], [True] * 5])


def test_prompt_follows_its_equations() -> None:
    torch.manual_seed(0)
    prompt = TextVisionPrompt(6, 7, 4, 3, zero_init=False)
    report, image = tokens(1, 2, 5, 6), tokens(2, 2, 8, 7)
    result = prompt(report, VALID, image)
    for b in range(2):
        mean = torch.zeros(4)
        count = int(VALID[b].sum())
        for n in range(count):
            query = prompt.query.weight @ report[b, n] + prompt.query.bias
            scores, values = [], []
            for m in range(8):
                key = prompt.key.weight @ image[b, m] + prompt.key.bias
                scores.append(math.exp((query @ key).item() / math.sqrt(4)))
                values.append(prompt.value.weight @ image[b, m] + prompt.value.bias)
            z = torch.zeros(4)
            for score, value in zip(scores, values, strict=True):
                z = z + score / sum(scores) * value
            mean = mean + torch.tanh(z) * query / count
        expected = prompt.project.weight @ mean + prompt.project.bias
        torch.testing.assert_close(result[b], expected, atol=1e-5, rtol=1e-5)


def test_prompt_starts_at_zero_if_asked() -> None:
    prompt = TextVisionPrompt(6, 7, 4, 3)
    assert prompt(tokens(1, 2, 5, 6), VALID, tokens(2, 2, 8, 7)).abs().max() == 0


def test_masked_mean_leaves_padding_out() -> None:
    values = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert masked_mean(values, torch.tensor([[True, True, False]])).item() == 2


def test_tiling_repeats_or_cuts_valid_tokens() -> None:
    assert tile_index(VALID, 7).tolist() == [[0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 4, 0, 1]]
    assert tile_index(VALID, 2).tolist() == [[0, 1], [0, 1]]


def test_ltfr_follows_its_equations() -> None:
    torch.manual_seed(0)
    ltfr = LTFR(4)
    image, report = tokens(1, 2, 9, 4), tokens(2, 2, 5, 4)
    result = flat(ltfr(mapped(image, 3), report, VALID))
    for b in range(2):
        for position in range(9):
            text = report[b, position % int(VALID[b].sum())]
            joined = torch.cat([image[b, position], text])
            hidden = torch.nn.functional.gelu(ltfr.concat.weight @ joined + ltfr.concat.bias)
            fused = ltfr.fuse.weight @ hidden + ltfr.fuse.bias
            rate = 1 / (1 + torch.exp(-(ltfr.gate.weight @ fused + ltfr.gate.bias)))
            refined = rate * fused + (1 - rate) * image[b, position]
            expected = refined * image[b, position]
            torch.testing.assert_close(result[b, position], expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_is_attention_written_out() -> None:
    torch.manual_seed(0)
    block = CrossAttention(4, heads=1)
    image, report = tokens(1, 2, 3, 4), tokens(2, 2, 5, 4)
    result = flat(block(mapped(image, 1), report, VALID))
    w_q, w_k, w_v = block.attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = block.attention.in_proj_bias.chunk(3)
    for b in range(2):
        known = report[b, : int(VALID[b].sum())]
        query = block.norm(image[b]) @ w_q.T + b_q
        attention = torch.softmax(query @ (known @ w_k.T + b_k).T / 2, dim=-1)
        expected = image[b] + block.attention.out_proj(attention @ (known @ w_v.T + b_v))
        torch.testing.assert_close(result[b], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", [LTFR(4), LTFR(4, "attend"), CrossAttention(4)])
def test_padding_changes_nothing(fusion: torch.nn.Module) -> None:
    image, report = tokens(1, 2, 9, 4), tokens(2, 2, 5, 4)
    other = report.clone()
    other[0, 3:] = 1000.0
    found, wanted = (fusion(mapped(image, 3), r, VALID) for r in (other, report))
    torch.testing.assert_close(found, wanted)
    torch.manual_seed(0)
    prompt = TextVisionPrompt(4, 4, 4, 3, zero_init=False)
    torch.testing.assert_close(prompt(report, VALID, image), prompt(other, VALID, image))


def test_sizes_of_the_paper_preset() -> None:
    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    parts = [TextVisionPrompt(768, 768, 768, 1024), LTFR(128), PixelClassifier(512, (128, 32))]
    assert [size(part) for part in parts] == [2_559_232, 49_537, 627_746]
    totals = {1024 + 512 + 512 + 256: 4_515_491, 512 + 512 + 256 + 256: 4_220_579}
    for channels, total in totals.items():
        image = 3 * channels * 128 + 4 * 128
        text = 4 * (768 * 128 + 128)
        assert sum(map(size, parts)) + image + text == total
