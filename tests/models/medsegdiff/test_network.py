"""MedSegDiff at its least width, its parameters counted, its ensemble by hand."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import MedSegDiff, Network
from lcpdn_pl.models.medsegdiff.condition import ConditionLayer, ConditionNetwork
from lcpdn_pl.models.medsegdiff.network import Ensemble
from tests.models.tester import REPORTS, NetworkTester, dropouts, images, watch

TINY: dict[str, Any] = {"width": 8, "steps": 2, "ensemble": 2}


class TestMedSegDiff(NetworkTester):
    method = "medsegdiff"
    tolerance = 1e-2
    # Batch norm takes away a bias before it; a bias common to all keys changes no attention, and
    # nothing does where there is one token, as in the lowest map of 32 pixels.
    untrained: ClassVar[tuple[str, ...]] = (
        *(".0.0.bias", ".1.0.bias", "to_k.bias"),
        *("mid_block.attentions.0.to_q", "mid_block.attentions.0.to_k"),
    )

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return TINY

    def test_gradients_reach_all_that_trains_and_nothing_else(self, network: Network) -> None:
        assert isinstance(network, MedSegDiff)
        anchors, score = network.train().condition(self.images())
        noisy = torch.rand(3, 1, 32, 32)
        output = network.denoise(self.images(), anchors, noisy, torch.tensor([0, 500, 999]))
        output.square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        for name, gradient in gradients.items():
            assert (gradient is None) == name.startswith("condition_network"), name
        score.square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            if not any(part in name for part in self.untrained):
                assert parameter.grad.abs().max() > 0, name

    def test_autocast(self, network: Network) -> None:
        # Not of masks: those of an untrained denoiser are noise, of which each bit tips others.
        assert isinstance(network, MedSegDiff)
        network.eval()
        anchors, _ = network.condition(self.images())
        noisy, timestep = torch.rand(3, 1, 32, 32), torch.tensor(500)
        wanted = network.denoise(self.images(), anchors, noisy, timestep)
        with torch.autocast("cpu", torch.bfloat16):
            found = network.denoise(self.images(), anchors, noisy, timestep)
            logits = network(self.images(), REPORTS)
        assert (found.float() - wanted).norm() < 0.1 * wanted.norm()
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


def test_parameters() -> None:
    with torch.device("meta"):
        default, small = MedSegDiff(), MedSegDiff(width=32)
    condition = sum(p.numel() for p in default.condition_network.parameters())
    assert default.count_parameters() == (129_400_450, 0)
    assert condition == 15_727_232
    assert small.count_parameters() == (8_111_842, 0)


def test_arguments_out_of_range_are_refused() -> None:
    wrong: dict[str, tuple[Any, str]] = {
        "width": (6, r"width is 6: expected a multiple of 4;"),
        "sampler": ("ddim", r"sampler is 'ddim': expected one of ancestral, dpm-solver\+\+\."),
        "steps": (1001, r"steps is 1001: expected 2 to 1000"),
        "ensemble": (0, r"ensemble is 0: expected 1 sample"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ConfigError, match=message):
            MedSegDiff(**{name: value})


def test_only_masks_train_it() -> None:
    with torch.device("meta"):
        network = MedSegDiff(**TINY)
    with pytest.raises(ConfigError, match=r"expected a DiffusionSegmentationTask\. Set it as"):
        network.training_forward(images(), REPORTS)


def test_anchors_are_two_decoder_maps() -> None:
    torch.manual_seed(0)
    condition = ConditionNetwork(8, dropout=0.5).eval()
    seen: dict[str, Tensor] = {}
    for name, module in condition.named_modules():
        module.register_forward_hook(lambda _m, _args, out, name=name: seen.update({name: out}))
    anchors, score = condition(images(2))
    # Sides 32 to 2, and 1 at the lowest level.
    widths = [seen[f"encoder.{level}"].shape[1] for level in range(5)]
    assert widths == [2, 4, 8, 16, 30]
    assert seen["lowest"].shape == (2, 30, 1, 1)
    shapes = [tuple(seen[f"decoder.{level}"].shape[1:]) for level in range(5)]
    assert shapes == [(16, 2, 2), (8, 4, 4), (4, 8, 8), (2, 16, 16), (2, 32, 32)]
    half = F.interpolate(seen["decoder.3"], scale_factor=2, mode="bilinear")
    quarter = F.interpolate(seen["decoder.2"], scale_factor=4, mode="bilinear")
    assert torch.equal(anchors, torch.cat([half, half, quarter], dim=1))
    assert torch.equal(score, condition.classify(seen["decoder.4"]))
    assert condition.classify.bias is None


def test_anchors_are_added_to_the_first_features() -> None:
    torch.manual_seed(0)
    network = MedSegDiff(**TINY).eval()
    noisy = torch.rand(3, 1, 32, 32)
    anchors, _ = network.condition(images())
    assert not anchors.requires_grad
    seen: list[Tensor] = []
    network.unet.down_blocks[0].register_forward_pre_hook(
        lambda _m, _args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    network.denoise(images(), anchors, noisy, torch.tensor(7))
    wanted = network.stem(torch.cat([images(), noisy], dim=1)) + anchors
    torch.testing.assert_close(seen[0], wanted)
    assert anchors.abs().max() > 0.1


def test_ensemble_by_hand() -> None:
    # Four samples of a row of three pixels.
    rows = [[1.0, 0.9, 0.0], [1.0, 0.6, 0.0], [1.0, 0.4, 0.0], [1.0, 0.5, 0.8]]
    ensemble = Ensemble(torch.tensor(rows).view(1, 4, 1, 3))
    assert ensemble.mean.flatten().tolist() == pytest.approx([1, 0.6, 0.2])
    # Of the second pixel two samples are above 1/2, as the mean is; of the third all but one below.
    assert ensemble.agreement.flatten().tolist() == pytest.approx([1, 0.5, 0.75])
    wanted = [0, (0.14 / 4) ** 0.5, (0.48 / 4) ** 0.5]
    assert ensemble.deviation.flatten().tolist() == pytest.approx(wanted)
    assert ensemble.logits.shape == (1, 2, 1, 3)
    probability = ensemble.logits.softmax(dim=1)[:, 1].flatten().tolist()
    assert probability == pytest.approx([0.999, 0.6, 0.2])


@pytest.mark.parametrize("sampler", ["ancestral", "dpm-solver++"])
def test_samples_differ_by_seed_alone(sampler: str) -> None:
    torch.manual_seed(0)
    network = MedSegDiff(**TINY | {"sampler": sampler}).eval()
    image = images(1).repeat(2, 1, 1, 1)
    first = network.sample(image).samples
    assert first.shape == (2, 2, 32, 32)
    assert not first.requires_grad
    torch.manual_seed(1)
    assert torch.equal(network.sample(image).samples, first)
    # One image twice in a batch has one ensemble; its two members differ.
    torch.testing.assert_close(first[0], first[1])
    assert (first[0, 0] - first[0, 1]).abs().mean() > 0.01
    network.noise_seed = 1
    other = network.sample(image).samples
    assert all((first[0, k] - other[0, j]).abs().mean() > 0.01 for k in (0, 1) for j in (0, 1))


def test_dropout_takes_whole_channels_of_the_condition_s_encoder() -> None:
    network = MedSegDiff(**TINY | {"dropout": 0.3})
    condition = network.condition_network
    assert dropouts(condition.decoder) == {0.0: 2 * 5}
    assert dropouts(condition) == {0.3: 2 * 5 + 2, 0.0: 2 * 5}
    torch.manual_seed(0)
    layer = ConditionLayer(3, 500, dropout=0.3)
    calls = watch(layer[1])
    layer(images(2))
    (((seen,), dropped),) = calls
    kept = dropped.flatten(2).abs().sum(dim=2) > 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.04)
    torch.testing.assert_close(dropped[kept], seen[kept] / 0.7)
