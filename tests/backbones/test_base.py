"""What freezing promises, and how it is logged."""

import logging

import pytest
import torch
from torch import Tensor, nn

from lcpdn_pl.backbones.base import FrozenBackbone, frozen_backbones


class Stub(FrozenBackbone):
    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.freeze("stub", pretrained)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.net(values)
        return result


def test_frozen_inside_an_owner_in_training() -> None:
    backbone = Stub()
    owner = nn.Sequential(nn.Linear(2, 2), backbone).train()
    assert owner.training
    assert not any(module.training for module in backbone.modules())
    before = backbone.fingerprint()
    owner(torch.randn(4, 2)).sum().backward()
    # Gradients flow through the backbone, but not to it, and its statistics do not move.
    assert owner.get_parameter("0.weight").grad is not None
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert backbone.fingerprint() == before


def test_parts_that_were_put_in_train_mode_are_put_back() -> None:
    backbone = Stub()
    before = backbone.fingerprint()
    values = torch.randn(4, 2)
    wanted = backbone(values)
    backbone.net.train()
    assert torch.equal(backbone(values), wanted)
    assert backbone.fingerprint() == before


@pytest.mark.parametrize(
    ("pretrained", "word", "level"),
    [(True, "pretrained", logging.INFO), (False, "RANDOM", logging.WARNING)],
)
def test_one_log_line_says_what_was_loaded(
    caplog: pytest.LogCaptureFixture, pretrained: bool, word: str, level: int
) -> None:
    with caplog.at_level(logging.INFO, "lcpdn_pl.backbones.base"):
        backbone = Stub(pretrained)
    assert backbone.describe() == f"stub, 0.0 M parameters, {word}"
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (level, f"Stub: {backbone.describe()}")
    ]


def test_nested_backbones_are_found_by_dotted_name() -> None:
    network = nn.ModuleDict({"a": Stub(), "b": nn.ModuleDict({"c": Stub(), "d": nn.Identity()})})
    found = frozen_backbones(network)
    assert list(found) == ["a", "b.c"]
    assert found["b.c"] is network.get_submodule("b.c")


def test_fingerprint_tells_weights_apart() -> None:
    torch.manual_seed(0)
    first = Stub()
    second = Stub()
    assert first.fingerprint() != second.fingerprint()
    second.load_state_dict(first.state_dict())
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        second.get_buffer("net.1.running_mean")[1] += 1e-6
    assert first.fingerprint() != second.fingerprint()
