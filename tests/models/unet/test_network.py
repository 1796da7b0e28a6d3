"""The floor `unet`."""

from typing import Any

import pytest

from lcpdn_pl.models import Network
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
