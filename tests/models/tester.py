"""What every segmentation network must do; a test of a method is a small subclass."""

import io
from collections import Counter
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import Network, create

REPORTS = ["One left lung.", "Two round nuclei, upper right.", "One."]


def images(count: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


class NetworkTester:
    """Subclasses name the method and a tiny configuration, as the fixture ``config`` or here."""

    method: ClassVar[str]
    size: ClassVar[int] = 32
    takes_any_size: ClassVar[bool] = False
    reports: ClassVar[list[str]] = REPORTS
    untrained: ClassVar[tuple[str, ...]] = ()
    """Parameters whose gradient is zero by the method's own equations, by parts of their names."""

    tolerance: ClassVar[float] = 1e-4
    """How far logits of an image may be apart, alone and in a batch, absolute and relative: sums in
    another order differ in their last bits, which a network of many calls in a row enlarges."""

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def network(self, config: dict[str, Any]) -> Network:
        torch.manual_seed(0)
        return create(self.method, **config)

    def images(self, count: int = 3) -> Tensor:
        return images(count, self.size, self.size)

    def test_logits_have_the_image_size(self, network: Network) -> None:
        assert network(self.images(), self.reports).shape == (3, 2, self.size, self.size)

    def test_odd_sizes_work_or_tell_the_size_to_use(self, network: Network) -> None:
        odd = images(1, self.size + 1, self.size + 3)
        if self.takes_any_size:
            assert network.eval()(odd, self.reports[:1]).shape[2:] == odd.shape[2:]
        else:
            with pytest.raises(ConfigError, match=r"Image is \d+ x \d+.*resize it to \d+ x \d+"):
                network(odd, self.reports[:1])

    def test_gradients_reach_all_that_trains_and_nothing_else(self, network: Network) -> None:
        logits, terms = network.train().training_forward(self.images(), self.reports)
        torch.stack([logits.square().mean(), *terms.values()]).sum().backward()
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None, name
            if not any(part in name for part in self.untrained):
                assert parameter.grad.abs().max() > 0, name

    def test_batch_equals_singles(self, network: Network) -> None:
        network.eval()
        together = network(self.images(), self.reports)
        for index, report in enumerate(self.reports):
            alone = network(self.images()[index : index + 1], [report])
            torch.testing.assert_close(
                together[index : index + 1], alone, atol=self.tolerance, rtol=self.tolerance
            )

    def test_saved_and_loaded_gives_the_same(
        self, network: Network, config: dict[str, Any]
    ) -> None:
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        torch.manual_seed(1)
        other = create(self.method, **config)
        other.load_state_dict(torch.load(file, weights_only=True))
        wanted = network.eval()(self.images(), self.reports)
        assert torch.equal(other.eval()(self.images(), self.reports), wanted)

    def test_autocast(self, network: Network) -> None:
        network.eval()
        wanted = network(self.images(), self.reports)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(self.images(), self.reports)
        assert (found.float() - wanted).norm() < 0.1 * wanted.norm()


def dropouts(network: nn.Module) -> dict[float, int]:
    """How many dropout layers have which rate, those inside of multi-head attention included."""
    rates = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]
    rates += [part.dropout for part in network.modules() if isinstance(part, nn.MultiheadAttention)]
    return dict(Counter(rates))


def watch(module: nn.Module) -> list[tuple[tuple[Tensor, ...], Any]]:
    """Positional inputs and the output of each call of a module from now on."""
    calls: list[tuple[tuple[Tensor, ...], Any]] = []
    module.register_forward_hook(lambda _module, inputs, output: calls.append((inputs, output)))
    return calls
