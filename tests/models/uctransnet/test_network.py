"""UCTransNet at tiny width, its equations by plain loops, and the parts of the U-Net it shares."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import UCTransNet
from lcpdn_pl.models.blocks import ConvNormReLU, foreground_logits
from lcpdn_pl.models.lvit_family import (
    ConvEncoder,
    DecoderLevel,
    TokenEmbedding,
    TokenMap,
)
from lcpdn_pl.models.uctransnet.network import (
    ChannelAttention,
    ChannelGate,
    ChannelTransformerLayer,
)
from tests.models.tester import REPORTS, NetworkTester, dropouts, images, watch


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestUCTransNet(NetworkTester):
    method = "uctransnet"
    untrained = (".0.bias",)  # batch norm takes away a bias before it

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"image_size": 32, "width": 4, "layers": 2, "heads": 2, "dropout": 0.0}


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        assert UCTransNet().count_parameters() == (66_430_657, 0)


def test_channel_attention_by_loops() -> None:
    torch.manual_seed(0)
    widths, heads, count = (2, 3), 2, 4
    attention = ChannelAttention(widths, heads, dropout=0.5).eval()
    levels = [randn(1, count, c, seed=c) for c in widths]
    joined = randn(1, count, 5, seed=9)
    found = attention(levels, joined)
    weight = dict(attention.named_parameters())
    for level, tokens in enumerate(levels):
        c = widths[level]
        mean = torch.zeros(count, c)
        for head in range(heads):
            query = tokens[0] @ weight[f"queries.{level}.weight"][head * c : (head + 1) * c].T
            key = joined[0] @ attention.key.weight[head * 5 : (head + 1) * 5].T
            value = joined[0] @ attention.value.weight[head * 5 : (head + 1) * 5].T
            scores = torch.stack(
                [query[:, i] @ key[:, j] / math.sqrt(5) for i in range(c) for j in range(5)]
            ).reshape(c, 5)
            normed = (scores - scores.mean()) / (scores.var(correction=0) + 1e-5).sqrt()
            for i in range(c):
                weights = normed[i].exp() / normed[i].exp().sum()
                for n in range(count):
                    mean[n, i] += weights @ value[n] / heads
        wanted = mean @ weight[f"project.{level}.weight"].T
        torch.testing.assert_close(found[level][0], wanted)


def test_layer_adds_attention_and_then_an_mlp() -> None:
    torch.manual_seed(0)
    layer = ChannelTransformerLayer((2, 3), heads=2, dropout=0.0)
    levels = [randn(2, 4, c, seed=c) for c in (2, 3)]
    weight = dict(layer.named_parameters())
    joined = layer.norm_joined(torch.cat(levels, dim=-1))
    normed = [F.layer_norm(tokens, tokens.shape[-1:]) for tokens in levels]
    for index, (found, attended) in enumerate(
        zip(layer(levels), layer.attention(normed, joined), strict=True)
    ):
        between = levels[index] + attended
        first, bias, second, last_bias = (
            weight[f"mlps.{index}.{place}.{part}"]
            for place in (1, 3)
            for part in ("weight", "bias")
        )
        wide = F.gelu(F.layer_norm(between, between.shape[-1:]) @ first.T + bias)
        torch.testing.assert_close(found, between + wide @ second.T + last_bias)


def test_channel_gate_by_loops() -> None:
    torch.manual_seed(0)
    gate = ChannelGate(3)
    skip, decoder = randn(1, 3, 4, 4), randn(1, 3, 2, 2, seed=1)
    found = gate(skip, decoder)
    for c in range(3):
        weight = gate.skip.bias[c] + gate.decoder.bias[c]
        for other in range(3):
            weight = weight + gate.skip.weight[c, other] * skip[0, other].mean()
            weight = weight + gate.decoder.weight[c, other] * decoder[0, other].mean()
        wanted = (skip[0, c] * (1 / (1 + torch.exp(-weight / 2)))).clamp(min=0)
        torch.testing.assert_close(found[0, c], wanted)


def test_tokens_are_patches_in_row_order_with_positions() -> None:
    torch.manual_seed(0)
    embed = TokenEmbedding(width=2, patch=2, tokens=4, dropout=0.0)
    torch.nn.init.normal_(embed.position)
    weight = dict(embed.named_parameters())
    skip = randn(1, 2, 4, 4)
    found = embed(skip)
    assert found.shape == (1, 4, 2)
    for token, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        patch = skip[0, :, row : row + 2, column : column + 2]
        for c in range(2):
            wanted = (weight["patches.weight"][c] * patch).sum() + weight["patches.bias"][c]
            wanted = wanted + weight["position"][0, token, c]
            torch.testing.assert_close(found[0, token, c], wanted)


def test_token_map_is_the_published_order_of_its_parts() -> None:
    torch.manual_seed(0)
    to_map = TokenMap(3)
    tokens, skip = randn(2, 4, 3), randn(2, 3, 8, 8, seed=1)
    found = to_map.train()(tokens, skip)
    grid = tokens.transpose(1, 2).reshape(2, 3, 2, 2)
    enlarged = grid.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    wanted = skip + to_map.convolution(enlarged)
    torch.testing.assert_close(found, wanted)
    assert (found - skip).abs().max() > 0.1


def test_decoder_doubles_by_repeating_and_takes_skip_first() -> None:
    level = DecoderLevel(2, 3)
    low, skip = randn(1, 2, 2, 2), randn(1, 2, 4, 4, seed=1)
    high = low.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    wanted = level.convolutions(torch.cat([skip, high], dim=1))
    torch.testing.assert_close(level(low, skip), wanted)


def test_convolutions_are_normalised_over_the_batch_as_published() -> None:
    block = ConvNormReLU(2, 3)
    maps = randn(2, 2, 4, 4)
    plain = block[0](maps)
    assert plain.shape == (2, 3, 4, 4)
    mean, variance = plain.mean(dim=(0, 2, 3)), plain.var(dim=(0, 2, 3), correction=0)
    wanted = (plain - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(block(maps), wanted.clamp(min=0))


def test_encoder_sees_images_from_zero_to_one() -> None:
    encoder = ConvEncoder(2).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    skips, lowest = encoder(image)
    assert [tuple(skip.shape[1:]) for skip in skips] == [
        (2, 32, 32),
        (4, 16, 16),
        (8, 8, 8),
        (16, 4, 4),
    ]
    assert lowest.shape == (1, 16, 2, 2)
    torch.testing.assert_close(skips[0], encoder.stem((image + 1) / 2))
    torch.testing.assert_close(skips[1], encoder.down[0](F.max_pool2d(skips[0], 2)))


def test_softmax_of_the_logits_is_the_sigmoid_of_the_score() -> None:
    score = randn(2, 1, 3, 3)
    probability = foreground_logits(score).softmax(dim=1)[:, 1:]
    torch.testing.assert_close(probability, score.sigmoid())


@pytest.mark.parametrize(("side", "use"), [(40, 48), (8, 16), (0, 16)])
def test_sizes_are_whole_patches(side: int, use: int) -> None:
    with pytest.raises(ConfigError, match=rf"image_size is {side}, .*of 16\. Set it to {use}\."):
        UCTransNet(image_size=side, width=4)


def test_the_decoder_gets_skips_gated_by_the_map_below() -> None:
    torch.manual_seed(0)
    network = UCTransNet(image_size=32, width=4, layers=1, heads=1).eval()
    maps, gates, levels = (
        [watch(part) for part in parts] for parts in (network.maps, network.gates, network.decoder)
    )
    network(images(1), REPORTS[:1])
    for to_map, gate, level in zip(reversed(maps), gates, levels, strict=True):
        ((_, joined),), (((plain, below), gated),), (((low, skip), _),) = to_map, gate, level
        assert torch.equal(plain, joined)
        assert torch.equal(below, low)
        assert torch.equal(skip, gated)


def test_dropout_is_at_tokens_and_in_attention() -> None:
    network = UCTransNet(image_size=32, width=4, layers=2, heads=1, dropout=0.3)
    assert dropouts(network.embed) == {0.3: 4}
    assert dropouts(network.transformer) == {0.3: 2}
    assert dropouts(network) == {0.3: 6}


def test_dropout_is_of_the_projections_too() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention((8, 8), heads=1, dropout=0.5)
    (tokens, _) = attention([randn(2, 50, 8)] * 2, randn(2, 50, 16))
    assert tokens.eq(0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    (tokens, _) = attention.eval()([randn(2, 50, 8)] * 2, randn(2, 50, 16))
    assert tokens.ne(0).all()
