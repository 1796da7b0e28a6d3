"""TextDiff at tiny width: its equations written out, its parameters at full width."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.models import LCPDN, Network
from lcpdn_pl.models.textdiff.fusion import TextDiffHead, TextFusion
from lcpdn_pl.models.textdiff.network import TextDiff
from tests.models.tester import REPORTS, NetworkTester, images


@pytest.fixture
def config(tiny_network: dict[str, Any]) -> dict[str, Any]:
    names = ("denoiser", "text_encoder", "blocks", "steps", "width", "head_widths")
    return {name: tiny_network[name] for name in names}


class TestTextDiff(NetworkTester):
    method = "textdiff"
    # The batch norm takes away what a bias before it adds.
    untrained = ("head.classify.0.bias", "head.classify.3.bias")

    @pytest.fixture
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    def test_parameters_by_hand(self, network: Network) -> None:
        project = (32 * 8 + 8) + (16 * 8 + 8)  # of blocks 1, 3 and 4: the last two share one
        attention = 8 * 512 + 2 * 16 * 512 + (512 * 8 + 8) + 2 * 16
        fusion = 2 * attention + 16 + (8 * 8 + 8)
        classify = (24 * 8 * 9 + 8 + 16) + (8 * 8 * 9 + 8 + 16) + (8 * 2 * 9 + 2)
        assert network.count_parameters()[0] == project + fusion + classify


# Published: guided-diffusion's 256 pixel model, three steps, and a text encoder of width 768. The
# others are the embedded backbones.
@pytest.mark.parametrize(
    ("channels", "text_width", "expected"),
    [
        ([1536, 1536, 768, 768], 768, 9_683_234),  # blocks 6, 8, 12, 16: MoNuSeg
        ([3072, 1536, 1536, 768], 768, 10_862_882),  # blocks 4, 6, 8, 12: QaTa-COV19
        ([192, 192, 96, 96], 384, 6_906_914),
        ([288, 192, 192, 96], 384, 6_980_642),
    ],
)
def test_parameters_at_full_width(channels: list[int], text_width: int, expected: int) -> None:
    with torch.device("meta"):
        head = TextDiffHead(channels, text_width)
    assert sum(parameter.numel() for parameter in head.parameters()) == expected


def test_defaults_are_the_embedded_backbones() -> None:
    network = TextDiff()
    assert network.features.channels == [192, 192, 96, 96]
    assert network.text_encoder.max_tokens == 10
    assert network.count_parameters()[0] == 6_906_914


def random_weights(module: nn.Module) -> dict[str, Tensor]:
    """Draws all parameters and running statistics anew, so that each of them shows."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = module.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.1)
    return state


def test_fusion_position_by_position() -> None:
    fusion = TextFusion(6, 4).double()
    weights = random_weights(fusion)
    scale = torch.randn(2, 6, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    report = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2)).double()

    def linear(x: Tensor, name: str) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", torch.zeros(()))

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        normed = centred / (centred.square().mean() + 1e-5).sqrt()
        return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    found = fusion(scale, report)
    for b, row, column in torch.cartesian_prod(*map(torch.arange, (2, 2, 3))).tolist():
        x = scale[b, :, row, column]
        for name in ("attentions.0", "attentions.1"):
            query = linear(norm(x, f"{name}.norm"), f"{name}.query")
            keys = [linear(token, f"{name}.key") for token in report[b]]
            values = [linear(token, f"{name}.value") for token in report[b]]
            gathered = []
            for part in (slice(64 * head, 64 * head + 64) for head in range(8)):
                scores = torch.stack([query[part] @ key[part] / math.sqrt(64) for key in keys])
                shares = scores.exp() / scores.exp().sum()
                heads = zip(shares, values, strict=True)
                gathered.append(torch.stack([share * value[part] for share, value in heads]).sum(0))
            x = x + norm(linear(torch.cat(gathered), f"{name}.out.0"), f"{name}.out.1")
        normed = norm(x, "feed_forward.0")
        gelu = normed * (1 + torch.erf(normed / math.sqrt(2))) / 2
        torch.testing.assert_close(found[b, :, row, column], x + linear(gelu, "feed_forward.2"))


def test_scales_are_projected_fused_upsampled_and_classified() -> None:
    head = TextDiffHead([5, 8, 5, 3, 3], 4, width=8, head_widths=(6, 4)).eval().double()
    weights = random_weights(head)
    shapes = [(5, 2), (8, 2), (5, 4), (3, 8), (3, 16)]
    generator = torch.Generator().manual_seed(3)
    scales = [torch.randn(2, c, side, side, generator=generator).double() for c, side in shapes]
    report = torch.randn(2, 5, 4, generator=generator).double()
    # Eight channels pass; the two scales of three share a convolution, those of five do not.
    names = ["project_first", None, "project_later.5", "project_later.3", "project_later.3"]
    fused = []
    for scale, name in zip(scales, names, strict=True):
        if name is not None:
            scale = torch.einsum("oc,bchw->bohw", weights[f"{name}.weight"][..., 0, 0], scale)
            scale = scale + weights[f"{name}.bias"][:, None, None]
        small = head.fusion(scale, report)
        fused.append(F.interpolate(small, (16, 16), mode="bilinear", align_corners=False))
    x = torch.cat(fused, dim=1)
    for layer, norm in (("classify.0", "classify.1"), ("classify.3", "classify.4")):
        x = F.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=1)
        mean, variance, scale, shift = (
            weights[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
    wanted = F.conv2d(x, weights["classify.6.weight"], weights["classify.6.bias"], padding=1)
    torch.testing.assert_close(head(scales, report, (16, 16)), wanted)


def test_starts_from_small_normal_weights() -> None:
    torch.manual_seed(0)
    for layer in TextDiffHead([48, 24], 32, width=32).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.weight.mean().item() == pytest.approx(0, abs=0.002)
            assert layer.bias is None or not layer.bias.any()


def test_reports_are_cut_and_padded_with_zeros_that_take_part(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = TextDiff(**config).eval()
    seen: list[Tensor] = []
    network.head.fusion.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[1]))
    image = images(1)
    short = network(image, ["One."])
    network(image, ["One two one two one two one two round nuclei."])
    padded, cut = seen[0], seen[-1]
    tokens, _ = network.text_encoder(["One."])
    assert padded.shape == cut.shape == (1, 10, 16)
    assert torch.equal(padded[:, :4], tokens)  # [CLS] one . [SEP]
    assert not padded[:, 4:].any()
    assert cut.abs().sum(dim=2).min() > 0
    wider = TextDiff(**config, max_tokens=20).eval()
    wider.load_state_dict(network.state_dict())
    assert (short - wider(image, ["One."])).abs().max() > 1e-6


def test_features_are_those_of_lcpdn_without_a_prompt(
    config: dict[str, Any], tmp_path: Path
) -> None:
    cached = config | {"feature_cache": str(tmp_path)}
    wanted = LCPDN(**cached, cprfl=False).features(images())
    network = TextDiff(**cached).train()
    assert network.features.store is not None
    found = network.features(images())
    assert network.features.store.hits == len(images())
    assert all(map(torch.equal, found, wanted))
    assert not any(feature.requires_grad for feature in found)
    plain = TextDiff(**config)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(images(), REPORTS), plain.eval()(images(), REPORTS))
