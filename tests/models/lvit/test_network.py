"""LViT at tiny width, its equations by plain loops, and the transformer it shares with C2FVL."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import LViT
from lcpdn_pl.models.lvit.network import ReportTokens, UpwardTransformer
from lcpdn_pl.models.lvit_family import (
    DownwardTransformer,
    PixelGate,
    TokenEmbedding,
    TransformerBlock,
)
from tests.models.tester import REPORTS, NetworkTester, dropouts, images, watch


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(text_encoder: str) -> dict[str, Any]:
    return {"text_encoder": text_encoder, "image_size": 32, "width": 8, "dropout": 0.0}


class TestLViT(NetworkTester):
    method = "lvit"
    untrained = (".0.bias",)  # batch norm takes away a bias before it

    @pytest.fixture
    def config(self, tiny_bert: str) -> dict[str, Any]:
        return tiny(tiny_bert)


def test_parameters_of_the_paper(tiny_bert: str, tmp_path: Path) -> None:
    BertTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    config = BertConfig(vocab_size=128, hidden_size=768, num_hidden_layers=1, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    assert LViT(str(tmp_path)).count_parameters()[0] == 29_908_033


def test_reports_reach_the_logits_and_the_encoder_stays_frozen(tiny_bert: str) -> None:
    network = LViT(**tiny(tiny_bert)).train()
    assert not network.text_encoder.training
    network.eval()
    here, there = network(images(1), REPORTS[:1]), network(images(1), REPORTS[1:2])
    assert (here - there).abs().max() > 1e-6
    assert network.text_encoder.max_tokens == 10


def test_missing_report_tokens_are_zeros_and_further_ones_are_cut() -> None:
    torch.manual_seed(0)
    report = ReportTokens(text_width=6, width=8, max_tokens=4, tokens=9).eval()
    tokens = randn(2, 6, 6)
    four, two = report(tokens[:, :4]), report(tokens[:, :2])
    assert four.shape == (2, 9, 8)
    assert torch.equal(report(tokens), four)
    filled = torch.cat([tokens[:, :2], torch.zeros(2, 2, 6)], dim=1)
    assert torch.equal(two, report(filled))
    assert (two - four).abs().max() > 1e-3


def test_report_tokens_by_loops() -> None:
    torch.manual_seed(0)
    report = ReportTokens(text_width=6, width=8, max_tokens=3, tokens=2).eval()
    tokens = randn(1, 3, 6)
    hidden = tokens[0]
    parameters = dict(report.named_parameters())
    for layer, width in enumerate((64, 32, 16, 8)):
        weight, bias = (parameters[f"narrow.{layer}.{part}"] for part in ("weight", "bias"))
        assert weight.shape[0] == width
        narrow = bias.repeat(3, 1)
        for n in range(3):
            for offset in (-1, 0, 1):
                if 0 <= n + offset < 3:
                    narrow[n] += weight[:, :, offset + 1] @ hidden[n + offset]
        hidden = narrow
    weight, bias = parameters["mix.0.weight"], parameters["mix.0.bias"]
    wanted = torch.zeros(2, 8)
    for n in range(2):
        for c in range(8):
            wanted[n, c] = bias[n]
            for offset in (-1, 0, 1):
                if 0 <= c + offset < 8:
                    wanted[n, c] += weight[n, :, offset + 1] @ hidden[:, c + offset]
    # Fresh running statistics: mean 0 and variance 1.
    torch.testing.assert_close(report(tokens)[0], (wanted / (1 + 1e-5) ** 0.5).clamp(min=0))


def test_transformer_block_by_loops() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(4, heads=2, dropout=0.5).eval()
    tokens = randn(1, 3, 4)
    query, key, value = block.query_key_value(F.layer_norm(tokens[0], (4,))).split(4, dim=-1)
    attended = torch.zeros(3, 4)
    for head in (slice(0, 2), slice(2, 4)):
        for n in range(3):
            weights = torch.stack([query[n, head] @ key[m, head] / 2**0.5 for m in range(3)])
            attended[n, head] = weights.softmax(dim=0) @ value[:, head]
    between = tokens[0] + block.project(attended)
    first, second = block.mlp[0], block.mlp[3]
    assert first.weight.shape == (16, 4)
    mlp = F.gelu(second(F.gelu(first(F.layer_norm(between, (4,))))))
    torch.testing.assert_close(block(tokens)[0], between + mlp)


def test_width_is_shared_by_the_heads(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"12 wide.*8 attention heads.*multiple of 8\. Set"):
        LViT(**tiny(tiny_bert) | {"width": 12})


def test_downward_transformer_joins_each_level_with_the_last() -> None:
    torch.manual_seed(0)
    downward = DownwardTransformer(8, tokens=4, dropout=0.0)
    skips = [randn(2, 8 * 2**k, 32 // 2**k, 32 // 2**k, seed=k) for k in range(4)]
    report = randn(2, 4, 8, seed=9)
    found = downward(skips, report)
    wanted = downward.blocks[0](downward.embed[0](skips[0]) + report)
    torch.testing.assert_close(found[0], wanted)
    for k in (1, 2, 3):
        tokens = downward.blocks[k](downward.embed[k](skips[k]))
        half = downward.halve[k - 1](tokens.permute(0, 2, 1)).permute(0, 2, 1)
        wanted = torch.cat([half, wanted], dim=2)
        assert wanted.shape == (2, 4, 8 * 2**k)
        torch.testing.assert_close(found[k], wanted)
    assert (downward(skips)[3] - found[3]).abs().max() > 0.1


def test_upward_transformer_adds_the_level_below() -> None:
    torch.manual_seed(0)
    upward = UpwardTransformer(8, dropout=0.0)
    levels = [randn(2, 4, 8 * 2**k, seed=k) for k in range(4)]
    found = upward(levels)
    wanted = upward.blocks[3](levels[3])
    torch.testing.assert_close(found[3], wanted)
    for k in (2, 1, 0):
        below = upward.narrow[k](wanted.permute(0, 2, 1)).permute(0, 2, 1)
        wanted = upward.blocks[k](levels[k]) + below
        torch.testing.assert_close(found[k], wanted)


def test_pixel_gate_by_loops() -> None:
    torch.manual_seed(0)
    gate = PixelGate(3)
    skip = randn(1, 3, 2, 2)
    found = gate(skip)
    weights = dict(gate.named_parameters())
    for row in range(2):
        for column in range(2):
            pixel = skip[0, :, row, column]
            mean = (weights["mean.weight"][:, :, 0, 0] @ pixel).clamp(min=0).mean()
            maximum = (weights["maximum.weight"][:, :, 0, 0] @ pixel).clamp(min=0).max()
            three = torch.stack([mean, maximum, mean + maximum])
            hidden = weights["mlp.0.weight"][:, :, 0, 0] @ three + weights["mlp.0.bias"]
            weight = weights["mlp.2.weight"][0, :, 0, 0] @ hidden.clamp(min=0)
            weight = weight + weights["mlp.2.bias"]
            torch.testing.assert_close(found[0, :, row, column], weight * pixel)


def test_the_decoder_gets_the_gated_sums_of_tokens_and_skips(tiny_bert: str) -> None:
    torch.manual_seed(0)
    network = LViT(**tiny(tiny_bert)).eval()
    maps, gates, levels = (
        [watch(part) for part in parts] for parts in (network.maps, network.gates, network.decoder)
    )
    network(images(1), REPORTS[:1])
    for to_map, gate, level in zip(reversed(maps), gates, levels, strict=True):
        ((_, joined),), (((plain,), gated),), (((_, skip), _),) = to_map, gate, level
        assert torch.equal(plain, joined)
        assert torch.equal(skip, gated)


def test_dropout_is_at_tokens_and_in_mlps(tiny_bert: str) -> None:
    network = LViT(**tiny(tiny_bert) | {"dropout": 0.3})
    trained = {name: part for name, part in network.named_children() if name != "text_encoder"}
    rates = [dropouts(part) for part in trained.values()]
    assert [rate for rate in rates if rate] == [{0.3: 4 + 2 * 4}, {0.3: 2 * 4}]
    # What it does to ones: a share of them is zero, the rest is enlarged.
    embed, block = TokenEmbedding(8, 2, 1000, dropout=0.3), TransformerBlock(8, dropout=0.3)
    calls = [watch(embed), *(watch(block.mlp[place]) for place in (2, 5))]
    embed(torch.ones(8, 8, 200, 20))
    block(randn(8, 1000, 8))
    for (seen,), dropped in (call[0] for call in calls[1:]):
        assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        kept = dropped != 0
        torch.testing.assert_close(dropped[kept], seen[kept] / 0.7)
    assert (calls[0][0][1] == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
