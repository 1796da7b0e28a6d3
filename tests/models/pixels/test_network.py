"""The floor `pixels`."""

import torch

from lcpdn_pl.models import Network
from tests.models.tester import REPORTS, NetworkTester, images


class TestPixels(NetworkTester):
    method = "pixels"
    takes_any_size = True
    # The norm takes away what a bias before it adds.
    untrained = ("head.0.bias", "head.3.bias")

    def test_sees_seven_pixels_and_no_report(self, network: Network) -> None:
        network.eval()
        plain, changed = images(1), images(1)
        changed[..., 16, 16] += 1
        difference = (network(plain, REPORTS[:1]) - network(changed, REPORTS[1:2])).abs().sum(1)[0]
        # Elsewhere a pixel moves nothing but the image's statistics.
        touched = (difference > 0.05 * difference.max()).nonzero()
        assert touched.min(dim=0).values.tolist() == [13, 13]
        assert touched.max(dim=0).values.tolist() == [19, 19]

    def test_parameters_by_hand(self, network: Network) -> None:
        hidden = (3 * 64 * 9 + 64 + 128) + (64 * 32 * 9 + 32 + 64)
        assert network.count_parameters() == (hidden + 32 * 2 * 9 + 2, 0)
        assert torch.is_tensor(network(images(), REPORTS))
