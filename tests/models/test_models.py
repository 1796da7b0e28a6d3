"""Networks by name, and their parameters counted by hand."""

from typing import Any

import pytest

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
