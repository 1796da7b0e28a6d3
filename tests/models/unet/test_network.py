"""The floor `unet`."""

from typing import Any

import pytest
import torch

from lcpdn_pl.models import Network
from lcpdn_pl.models.unet.network import UNet
from tests.models.tester import NetworkTester


class TestUNet(NetworkTester):
    method = "unet"

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"widths": (4, 8, 8), "dropout": 0.0}

    def test_parameters_by_hand(self, network: Network) -> None:
        def level(before: int, width: int) -> int:
            return before * width * 9 + width * width * 9 + 4 * width

        down = level(3, 4) + level(4, 8) + level(8, 8)
        up = (8 * 8 * 4 + 8) + level(16, 8) + (8 * 4 * 4 + 4) + level(8, 4)
        assert network.count_parameters() == (down + up + 4 * 2 + 2, 0)


def test_named_places_are_two_more_channels() -> None:
    plain, placed = UNet((4, 8), 0.0), UNet((4, 8), 0.0, report_places=True)
    weights = plain.state_dict()
    first = next(name for name, weight in weights.items() if weight.shape[1:2] == (3,))
    weights[first] = torch.cat([weights[first], torch.zeros(4, 2, 3, 3)], dim=1)
    placed.load_state_dict(weights)
    image, reports = torch.randn(2, 3, 8, 8), ["lower left lung", "all right lung"]
    torch.testing.assert_close(placed(image, reports), plain(image, reports))
    weights[first][:, 3:] = 1
    placed.load_state_dict(weights)
    assert not torch.allclose(placed(image, reports), placed(image, reports[::-1]))
