"""LCPDN as a whole, at tiny width."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import LCPDN, create
from lcpdn_pl.models.lcpdn.fusion import CrossAttention
from tests.models.tester import REPORTS, NetworkTester


def images(count: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestLCPDN(NetworkTester):
    method = "lcpdn"
    size = 64  # four image tokens: with one there is nothing to choose, and no gradient for it
    # A shift of all keys leaves the softmax as it is, and the norm takes away a bias before it.
    untrained = ("prompt.key.bias", "head.classify.0.bias", "head.classify.3.bias")

    @pytest.fixture(
        params=[
            {},
            {"ltfr": False},
            {"text_alignment": "attend", "clean_scales": ("pixels", "encoder")},
            {"report_places": True},
            {"prompt_injection": "scale_shift"},
            {"clean_scales": ("encoder",), "head": "pyramid", "head_widths": (4, 5, 6, 7, 8)},
        ],
        ids=lambda options: "-".join(options) or "paper",
    )
    def config(
        self, tiny_network: dict[str, Any], request: pytest.FixtureRequest
    ) -> dict[str, Any]:
        options: dict[str, Any] = request.param
        return tiny_network | {"zero_init_prompt": False} | options


def test_report_and_image_reach_the_logits(tiny_network: dict[str, Any]) -> None:
    network = LCPDN(**tiny_network, zero_init_prompt=False).eval()
    image = images(1)
    here, there = network(image, REPORTS[:1]), network(image, REPORTS[1:2])
    assert (here - there).abs().max() > 1e-4
    assert (here - network(-image, REPORTS[:1])).abs().max() > 1e-4


@pytest.mark.parametrize("places", [True, False])
def test_without_reports_all_are_empty(tiny_network: dict[str, Any], places: bool) -> None:
    options = tiny_network | {"zero_init_prompt": False, "report_places": places}
    told, untold = LCPDN(**options), LCPDN(**options, reads_report=False)
    untold.load_state_dict(told.state_dict())
    image = images(2)
    found = untold.eval()(image, ["lower left lung", REPORTS[1]])
    torch.testing.assert_close(found, told.eval()(image, ["", ""]))


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_reach_the_prompt_and_nothing_frozen(
    tiny_network: dict[str, Any], checkpointing: bool
) -> None:
    network = LCPDN(
        **tiny_network, zero_init_prompt=False, gradient_checkpointing=checkpointing
    ).train()
    assert not network.features.training
    assert not network.text_encoder.training
    assert network.image_encoder is not None
    assert not any(module.training for module in network.image_encoder.modules())
    # Four image tokens: with one there is nothing to choose, and keys and queries get none.
    network(images(size=64), REPORTS).square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # A shift of all keys leaves the softmax as it is.
            if name.startswith("prompt.") and "key.bias" not in name:
                assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert network.prompt is not None
    assert network.prompt.key.weight.grad is not None
    assert network.prompt.key.weight.grad.norm() > 0


def test_zero_prompt_is_the_plain_denoiser(tiny_network: dict[str, Any]) -> None:
    prompted = LCPDN(**tiny_network).eval()
    plain = LCPDN(**tiny_network, cprfl=False).eval()
    plain.load_state_dict(prompted.state_dict(), strict=False)
    torch.testing.assert_close(prompted(images(), REPORTS), plain(images(), REPORTS))
    assert plain.prompt is None
    assert plain.image_encoder is None


def test_toggles_and_frozen_prompt(tiny_network: dict[str, Any]) -> None:
    assert isinstance(LCPDN(**tiny_network, ltfr=False).fusion, CrossAttention)
    with pytest.raises(ConfigError, match=r"prompts nothing\. Set zero_init_prompt to false"):
        LCPDN(**tiny_network, prompt_gradient=False)
    network = LCPDN(**tiny_network, prompt_gradient=False, zero_init_prompt=False)
    assert network.prompt is not None
    assert not any(parameter.requires_grad for parameter in network.prompt.parameters())
    network(images(), REPORTS).mean().backward()
    trainable, frozen = network.count_parameters()
    assert trainable + frozen == sum(p.numel() for p in network.parameters())
    assert trainable < LCPDN(**tiny_network).count_parameters()[0]


def test_clean_scales_add_what_they_name(tiny_network: dict[str, Any]) -> None:
    seen: list[Tensor] = []
    network = LCPDN(**tiny_network, cprfl=False, clean_scales=("encoder", "pixels"))
    for projection in network.project_image:
        projection.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = images(1, 64)
    network(image, REPORTS[:1])
    assert network.image_encoder is not None
    assert torch.equal(seen[3], image)
    for found, wanted in zip(seen[4:], network.image_encoder.encode(image)[1], strict=True):
        assert torch.equal(found, wanted)
    sides = [tuple(scale.shape[1:]) for scale in seen[4:]]
    assert sides == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert network.prompt is None


def test_options_reach_the_denoiser(tiny_network: dict[str, Any]) -> None:
    features = LCPDN(**tiny_network, noise_seed=3, step_batch=1).features
    assert (features.noise_seed, features.step_batch) == (3, 1)


def test_projected_features_are_normalised(tiny_network: dict[str, Any]) -> None:
    """Over channels and positions of an image, to mean 0 and deviation 1."""
    seen: list[Tensor] = []
    for normalise in (True, False):
        network = LCPDN(**tiny_network, normalise=normalise)
        network.fusion.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        network(images(2), REPORTS[:2])
    half = len(seen) // 2
    for scale in seen[:half]:
        torch.testing.assert_close(scale.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
        deviation = scale.std(dim=(1, 2, 3), correction=0)
        torch.testing.assert_close(deviation, torch.ones(2), atol=1e-2, rtol=0)
    assert all((scale.mean(dim=(1, 2, 3)).abs() > 1e-4).any() for scale in seen[half:])


def test_features_are_kept_of_prompts_that_stay(
    tiny_network: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"but the prompt is trained and changes them"):
        LCPDN(**tiny_network, feature_cache=str(tmp_path))
    cached = LCPDN(**tiny_network, cprfl=False, feature_cache=str(tmp_path)).eval()
    plain = LCPDN(**tiny_network, cprfl=False).eval()
    plain.load_state_dict(cached.state_dict())
    for _ in range(2):
        found, expected = (net(images(2), REPORTS[:2]) for net in (cached, plain))
        torch.testing.assert_close(found, expected)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


@pytest.mark.parametrize("enlarge", [3, 4])
def test_enlarged_maps_lie_on_pixels(enlarge: int, tiny_network: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected a divisor of their strides \[2, 4, 8, 16, 32"):
        LCPDN(**tiny_network, clean_scales=("encoder",), enlarge=enlarge)


def test_encoder_sees_the_image_enlarged(tiny_network: dict[str, Any]) -> None:
    seen: list[Tensor] = []
    network = LCPDN(
        **tiny_network, cprfl=False, clean_scales=("encoder",), encoder_maps=(1, 0), enlarge=2
    )
    for projection in network.project_image:
        projection.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = images(1, 64)
    network(image, REPORTS[:1])
    assert network.image_encoder is not None
    large = F.interpolate(image, size=(128, 128), mode="bicubic").clamp(-1, 1)
    fine, coarse = network.image_encoder.encode(large)[1][:2]
    wanted = [coarse, fine]
    assert [tuple(scale.shape[1:]) for scale in wanted] == [(24, 32, 32), (16, 64, 64)]
    for found, expected in zip(seen[3:], wanted, strict=True):
        assert torch.equal(found, expected)


def test_unknown_map_of_the_encoder(tiny_network: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"encoder_maps=\[5\].*efficientnet-lite0 has maps 0 to 4"
    ):
        LCPDN(**tiny_network, clean_scales=("encoder",), encoder_maps=(5,))


def test_enlarging_reaches_the_prompt(tiny_network: dict[str, Any]) -> None:
    network = LCPDN(**tiny_network, enlarge=2)
    seen: list[Tensor] = []
    assert network.prompt is not None
    network.prompt.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[2]))
    network(images(1, 64), REPORTS[:1])
    assert seen[0].shape[1] == 16  # tokens of 128 x 128, one for 32 x 32


def test_backbones_are_described(tiny_network: dict[str, Any]) -> None:
    described = LCPDN(**tiny_network).describe_backbones()
    assert set(described) == {"features", "text_encoder", "image_encoder"}
    assert described["image_encoder"] == "efficientnet-lite0, 3.0 M parameters, pretrained"


def test_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="'nope'; expected one of lcpdn"):
        create("nope")
