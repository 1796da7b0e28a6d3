"""Networks by name, and their parameters counted by hand."""

from typing import Any

import pytest
import torch
from benchmarks.methods import Counts, count
from torch import Tensor, nn

from lcpdn_pl.cli import main
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import LCPDN, NETWORKS, Network, create


def test_names_are_of_networks() -> None:
    assert NETWORKS["lcpdn"] is LCPDN
    assert all(issubclass(network, Network) for network in NETWORKS.values())


def test_unknown_name_lists_all() -> None:
    with pytest.raises(ConfigError) as caught:
        create("unet3+")
    assert str(caught.value) == f"Unknown method 'unet3+'; expected one of {', '.join(NETWORKS)}."


@pytest.mark.parametrize("cprfl", [True, False])
def test_trainable_parameters_by_hand(tiny_network: dict[str, Any], cprfl: bool) -> None:
    network = create("lcpdn", **tiny_network, cprfl=cprfl)
    assert isinstance(network, LCPDN)
    assert network.features.channels == [2 * 16, 2 * 8, 2 * 8]
    image = (32 + 16 + 16) * 8 + 3 * 8
    text = 3 * (16 * 8 + 8)
    ltfr = (16 * 8 + 8) + (8 * 8 + 8) + (8 + 1)
    head = (24 * 8 * 9 + 8 + 16) + (8 * 8 * 9 + 8 + 16) + (8 * 2 * 9 + 2)
    prompt = (16 * 16 + 16) + 2 * (320 * 16 + 16) + (16 * 32 + 32)
    trainable, frozen = network.count_parameters()
    assert trainable == image + text + ltfr + head + cprfl * prompt
    parts = [network.features, network.text_encoder, *filter(None, [network.image_encoder])]
    assert frozen == sum(p.numel() for part in parts for p in part.parameters())
    assert set(network.describe_backbones()) == {
        "features",
        "text_encoder",
        *(["image_encoder"] if cprfl else []),
    }


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mgcc", {"levels": 1}, r"levels is 1: expected 2 or more"),
        ("mgcc", {"kernel": 4}, r"kernel is 4: expected an odd side"),
        ("unet", {"widths": ()}, r"widths is \(\): expected the channels of one level or more"),
    ],
)
def test_sizes_that_no_network_has_are_refused(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create(method, **options)


@pytest.mark.parametrize(
    ("network", "option"),
    [
        ("LViT", "max_tokens"),
        ("UCTransNet", "heads"),
        ("UCTransNet", "layers"),
        ("C2FVL", "width"),
        ("RecLMIS", "layers"),
        ("TextDiff", "width"),
        ("MGCC", "levels"),
        ("MGCC", "depth"),
        ("UNet", "widths"),
    ],
)
def test_numbers_that_count_are_positive(
    network: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = "ConsistencyTask" if network == "MGCC" else "SegmentationTask"
    value = "[8, 0]" if option == "widths" else "0"
    arguments = [f"--model={task}", f"--model.network={network}", "--data=Phantom"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments, f"--model.network.{option}={value}", "--print_config"])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


class Parts(nn.Module):
    """Ten parameters that are called, and others that some rules leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(4, 2)  # 10
        self.position = nn.Parameter(torch.zeros(3))
        self.attention = nn.MultiheadAttention(4, 1)  # 60 + 20
        self.training_alone = nn.Linear(1, 1)  # 2
        self.dead = nn.Linear(4, 24)  # 120
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, self.frozen(x))
        result: Tensor = self.called(attended).sum() + self.position.sum()
        return result


def test_parameters_are_counted_by_four_rules() -> None:
    network, x = Parts(), torch.rand(2, 1, 4)
    found = count(
        network, lambda: network(x), lambda: network(x) + network.training_alone(x[0, :, :1])
    )
    assert found == Counts(registered=215, reached=95, leaves=10, inference=93)
