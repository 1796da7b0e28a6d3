"""C2FVL at tiny width, and its equations by plain loops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lcpdn_pl.errors import DataError
from lcpdn_pl.models import C2FVL
from lcpdn_pl.models.c2fvl.attributes import parse_attributes
from lcpdn_pl.models.c2fvl.network import AttributeGate, coherence_loss
from tests.models.tester import NetworkTester, dropouts, images, watch

REPORTS = [
    "Bilateral pulmonary infection, two infected areas, all left lung and lower right lung.",
    "Unilateral pulmonary infection, one infected area, middle left lung.",
    "Unilateral pulmonary infection, three infected areas, upper lower right lung.",
]
TINY: dict[str, Any] = {"image_size": 32, "width": 8, "dropout": 0.0}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestC2FVL(NetworkTester):
    method = "c2fvl"
    reports = REPORTS
    untrained = (".0.bias",)  # batch norm takes away a bias before it

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return TINY


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        assert C2FVL().count_parameters() == (24_196_088, 0)


def test_attributes_multiply_every_eighth_channel() -> None:
    torch.manual_seed(0)
    network = C2FVL(**TINY).eval()
    inputs: dict[str, list[Tensor]] = {}
    for report in REPORTS[1:]:
        seen = inputs[report] = []
        hooks = [
            gate.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
            for gate in network.gates
        ]
        network(images(1), [report])
        for hook in hooks:
            hook.remove()
    whole: list[Tensor] = []
    hooks = [
        to_map.register_forward_hook(lambda _m, _args, output: whole.append(output))
        for to_map in network.maps
    ]
    network(images(1), REPORTS[:1])
    assert [plain.shape[1] for plain in whole] == [8, 16, 32, 64]
    for report, seen in inputs.items():
        for plain, multiplied in zip(whole, seen, strict=True):
            for channel in range(plain.shape[1]):
                factor = parse_attributes(report)[channel % 8]
                torch.testing.assert_close(multiplied[:, channel], factor * plain[:, channel])


def test_gate_by_loops() -> None:
    torch.manual_seed(0)
    gate = AttributeGate(3)
    skip = randn(1, 3, 2, 2)
    found = gate(skip)
    weights = dict(gate.named_parameters())
    assert weights["mlp.0.weight"].shape[:2] == (4, 1)
    for row in range(2):
        for column in range(2):
            pixel = skip[0, :, row, column]
            parts = []
            for part in ("mean", "maximum"):
                hidden = weights[f"{part}.0.weight"][:, :, 0, 0] @ pixel
                hidden = weights[f"{part}.1.weight"][:, :, 0, 0] @ hidden
                parts.append((hidden + weights[f"{part}.1.bias"]).clamp(min=0))
            total = parts[0].mean() + parts[1].max()
            hidden = weights["mlp.0.weight"][:, 0, 0, 0] * total + weights["mlp.0.bias"]
            weight = weights["mlp.2.weight"][0, :, 0, 0] @ hidden.clamp(min=0)
            weight = weight + weights["mlp.2.bias"]
            torch.testing.assert_close(found[0, :, row, column], weight * pixel)


def test_coherence_by_loops() -> None:
    maps = [randn(2, 1, 3, 3, seed=k) for k in range(4)]
    wanted = 0.0
    for image in range(2):
        finest = maps[0][image].flatten().tolist()
        for scale in maps[1:]:
            other = scale[image].flatten().tolist()
            product = sum(a * b for a, b in zip(finest, other, strict=True))
            norms = sum(a * a for a in finest) * sum(b * b for b in other)
            wanted += 0.5 * (1 - product / norms**0.5) / 2
    assert coherence_loss(maps).item() == pytest.approx(wanted, rel=1e-5)
    assert coherence_loss([maps[0], 3 * maps[0]]).item() == pytest.approx(0, abs=1e-6)
    assert coherence_loss([maps[0], -maps[0], -maps[0]]).item() == pytest.approx(2)


def test_training_adds_the_coherence_of_the_gated_skips() -> None:
    torch.manual_seed(0)
    network = C2FVL(**TINY).eval()
    skips: list[Tensor] = []
    for gate in network.gates:
        gate.register_forward_hook(lambda _m, _args, output: skips.append(output))
    logits, terms = network.training_forward(images(), REPORTS)
    maps = []
    for k, skip in enumerate(skips[:4]):
        enlarged = skip.repeat_interleave(2**k, dim=2).repeat_interleave(2**k, dim=3)
        # The finest map has the weights of the output.
        maps.append((network.classify if k == 0 else network.classify_coarse[k - 1])(enlarged))
    assert terms.keys() == {"coherence"}
    torch.testing.assert_close(terms["coherence"], coherence_loss(maps))
    assert terms["coherence"] > 1e-3
    assert torch.equal(network(images(), REPORTS), logits)


def test_reports_without_attributes_are_refused() -> None:
    with pytest.raises(DataError, match=r"'The nuclei are evenly distributed\.' is not worded"):
        C2FVL(**TINY)(images(1), ["The nuclei are evenly distributed."])


def test_the_decoder_gets_the_gated_skips() -> None:
    torch.manual_seed(0)
    network = C2FVL(**TINY).eval()
    gates, levels = [watch(gate) for gate in network.gates], [watch(d) for d in network.decoder]
    here, there = network(images(1), REPORTS[:1]), network(images(1), REPORTS[1:2])
    for gate, level in zip(gates, reversed(levels), strict=True):
        for (_, gated), ((_, skip), _) in zip(gate, level, strict=True):
            assert torch.equal(skip, gated)
    assert (here - there).abs().max() > 1e-4


def test_dropout_has_its_rate() -> None:
    assert dropouts(C2FVL(**TINY | {"dropout": 0.3})) == {0.3: 4 + 2 * 4}  # tokens, MLPs
