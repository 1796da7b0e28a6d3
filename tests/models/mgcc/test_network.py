"""MGCC at tiny width, its parameters counted and its equations by plain loops."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import MGCC, Network
from lcpdn_pl.models.mgcc.network import (
    PERTURBATIONS,
    ConvMixerLayer,
    DecoderLevel,
    SkipGate,
    add_noise,
    drop_active,
    drop_values,
)
from tests.models.tester import REPORTS, NetworkTester, images

TINY: dict[str, Any] = {"width": 4, "levels": 4, "depth": 2, "kernel": 3}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestMGCC(NetworkTester):
    method = "mgcc"
    # Batch norm takes away a bias before it.
    untrained: ClassVar[tuple[str, ...]] = tuple(
        f"{part}.0.bias" for part in ("0", "1", "2", "grow.1", "vote")
    )

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return TINY

    def test_gradients_reach_all_that_trains_and_nothing_else(self, network: Network) -> None:
        assert isinstance(network, MGCC)
        torch.stack(
            [logits.square().mean() for logits in network.branches(self.images())]
        ).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            if not any(part in name for part in self.untrained):
                assert parameter.grad.abs().max() > 0, name


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        network = MGCC()
    auxiliary = [sum(p.numel() for p in decoder.parameters()) for decoder in network.auxiliary]
    assert network.count_parameters() == (122_182_980, 0)
    assert auxiliary == [23_346_945] * 3
    assert 122_182_980 - sum(auxiliary) == 52_142_145


def test_only_branches_train_all_decoders() -> None:
    with pytest.raises(ConfigError, match=r"expected a ConsistencyTask\. Set it as model\.class"):
        MGCC(**TINY).training_forward(images(), REPORTS)


def test_auxiliary_decoders_get_perturbed_features_before_their_mixer() -> None:
    torch.manual_seed(0)
    network = MGCC(**TINY).eval()
    seen: dict[int, list[Tensor]] = {}
    for k, decoder in enumerate([network.decoder, *network.auxiliary]):
        decoder.register_forward_pre_hook(lambda _m, args, k=k: seen.update({k: args[0]}))
    lowest: list[Tensor] = []
    network.encoder[-1].register_forward_hook(lambda _m, _args, output: lowest.append(output))
    for mixer in network.mixers:
        mixer.register_forward_hook(lambda _m, _args, output: lowest.append(output))
    torch.manual_seed(1)
    branches = network.branches(images())
    assert [logits.shape for logits in branches] == [(3, 2, 32, 32)] * 4
    assert torch.equal(network(images(), REPORTS), branches[0])
    *skips, last = seen[0]
    assert [skip.shape[1:] for skip in skips] == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]
    assert last.shape == (3, 32, 4, 4)
    assert torch.equal(last, lowest[3])
    torch.manual_seed(1)
    for k, perturb in enumerate(PERTURBATIONS):
        for plain, found in zip([*skips, lowest[k]], seen[k + 1], strict=True):
            assert torch.equal(found, perturb(plain))
            assert not torch.equal(found, plain)
    hidden = network.encoder[0](images())
    for level, skip in zip(network.encoder[1:], skips, strict=True):
        assert torch.equal(hidden, skip)
        hidden = level(F.max_pool2d(hidden, 2))
    assert torch.equal(hidden, lowest[0])
    for k in range(3):
        wanted = network.mixers[k](lowest[k])
        assert torch.equal(wanted, lowest[k + 1])


def test_the_most_active_pixels_are_dropped() -> None:
    torch.manual_seed(0)
    rise = torch.arange(101) / 100
    features = torch.stack([4 * rise, 1 - rise]).unsqueeze(1).repeat(300, 1, 1, 1)
    features[1::2] *= 10  # an image's own maximum counts
    kept = drop_active(features)
    # a = (1 + 3 rise) / 2, of which the 0.7th to 0.9th part of the maximum is at 0.6 to 0.87.
    counts = (kept[:, 0, 0] > 0).sum(dim=1)
    assert 59 <= counts.min() <= 62
    assert 83 <= counts.max() <= 86
    assert counts.float().mean().item() == pytest.approx(73, abs=1)
    for image, plain, count in zip(kept, features, counts, strict=True):
        assert torch.equal(image[..., : count + 1], plain[..., : count + 1])
        assert not image[..., count + 1 :].any()


def test_dropped_values_and_noise() -> None:
    torch.manual_seed(0)
    ones = torch.ones(2, 10, 50, 50)
    dropped = drop_values(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    noisy = add_noise(3 * ones) / 3
    assert noisy.min().item() == pytest.approx(0.7, abs=0.001)
    assert noisy.max().item() == pytest.approx(1.3, abs=0.001)
    assert noisy.std().item() == pytest.approx(0.6 / 12**0.5, abs=0.002)
    assert not torch.equal(noisy[0], noisy[1])


def correlate(weight: Tensor, bias: Tensor, image: Tensor, spread: int = 1) -> Tensor:
    """A convolution [O, I, k, k] of an image [I, H, W], zeros around it, pixel by pixel."""
    height, width = image.shape[1:]
    middle = weight.shape[-1] // 2
    result = bias[:, None, None].repeat(1, height, width)
    for row in range(height):
        for column in range(width):
            for i in range(-middle, middle + 1):
                for j in range(-middle, middle + 1):
                    y, x = row + spread * i, column + spread * j
                    if 0 <= y < height and 0 <= x < width:
                        taps = weight[:, :, middle + i, middle + j]
                        result[:, row, column] += taps @ image[:, y, x]
    return result


NORM = (1 + 1e-5) ** 0.5
"""What fresh running statistics, mean 0 and variance 1, divide by."""


def test_conv_mixer_layer_by_loops() -> None:
    torch.manual_seed(0)
    layer = ConvMixerLayer(2, kernel=3).eval()
    image = randn(2, 4, 5)
    weight, bias = layer.depthwise[0].parameters()
    assert weight.shape == (2, 1, 3, 3)
    deep = torch.cat(
        [correlate(weight[c : c + 1], bias[c : c + 1], image[c : c + 1]) for c in range(2)]
    )
    between = image + F.gelu(deep) / NORM
    weight, bias = layer.pointwise[0].parameters()
    wanted = F.gelu(correlate(weight, bias, between)) / NORM
    torch.testing.assert_close(layer(image[None])[0], wanted)


def test_skip_gate_by_loops() -> None:
    torch.manual_seed(0)
    gate = SkipGate(2).eval()
    skip = randn(2, 6, 5)
    looks = []
    for look, side, spread in zip(gate.looks, (1, 3, 3), (1, 1, 2), strict=True):
        weight, bias = list(look.parameters())[:2]
        assert weight.shape[-1] == side
        looks.append(correlate(weight, bias, skip, spread) / NORM)
    weight, bias = gate.vote[0].parameters()
    vote = correlate(weight, bias, torch.cat(looks).clamp(min=0)) / NORM
    wanted = skip + skip / (1 + (-vote).exp())
    torch.testing.assert_close(gate(skip[None])[0], wanted)


def test_decoder_level_grows_gates_and_joins() -> None:
    torch.manual_seed(0)
    level = DecoderLevel(2).eval()
    low, skip = randn(1, 4, 3, 3), randn(1, 2, 6, 6)
    large = low.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    hidden = torch.cat([level.gate(skip), level.grow[1](large)], dim=1)
    for convolution in ("0.0", "1.0"):
        hidden = level.convolutions.get_submodule(convolution)(hidden)
        hidden = (hidden / NORM).clamp(min=0)
    torch.testing.assert_close(level(low, skip), hidden)
