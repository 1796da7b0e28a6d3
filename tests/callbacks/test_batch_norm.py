"""Batch norm's statistics are those of the weights that are validated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lcpdn_pl.backbones.base import FrozenBackbone
from lcpdn_pl.callbacks import PreciseBatchNorm
from lcpdn_pl.data import Phantom
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.models.base import Network
from lcpdn_pl.tasks import SegmentationTask
from tests.conftest import quiet_trainer


class FrozenNorm(FrozenBackbone):
    """Batch norm as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)


class Normed(Network):
    """A convolution and batch norm, one more for training alone, one in a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = FrozenNorm()
        self.backbone.freeze("stub", pretrained=False)
        self.convolution = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.aside = nn.BatchNorm2d(2)

    def forward(self, image: Tensor, text: Any) -> Tensor:  # noqa: ARG002 - reads no report
        seen: Tensor = self.norm(self.drop(self.convolution(self.backbone.norm(image))))
        return seen

    def training_forward(self, image: Tensor, text: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self(image, text)
        return logits, {"aside": self.aside(logits).square().mean()}


class Images(LightningDataModule):
    """Six images of a seed, in batches of two; one to validate."""

    def batches(self, count: int) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(0)
        return [
            {
                "image": torch.randn(3, 4, 4, generator=generator) + index,
                "mask": torch.randint(0, 2, (4, 4), generator=generator),
                "text": "",
                "name": str(index),
            }
            for index in range(count)
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches(6), batch_size=2)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches(1), batch_size=1)  # type: ignore[arg-type]


class Look(Callback):
    """Keeps the network's state as it is validated."""

    seen: dict[str, Tensor]

    def on_validation_batch_end(self, _trainer: Any, pl_module: Any, *_: Any) -> None:
        assert not pl_module.network.norm.training
        self.seen = {k: v.clone() for k, v in pl_module.network.state_dict().items()}


def statistics(state: dict[str, Tensor], batches: int) -> tuple[Tensor, Tensor]:
    """Means over batches of what the convolution gives, and of its unbiased variance."""
    images = [image["image"] for image in Images().batches(2 * batches)]
    means, variances = [], []
    for one, two in zip(images[::2], images[1::2], strict=True):
        norm = torch.stack([one, two]) / (1 + 1e-5) ** 0.5  # the backbone's own mean 0, variance 1
        weight, bias = state["convolution.weight"][:, :, 0, 0], state["convolution.bias"]
        out = torch.einsum("bchw,dc->dbhw", norm, weight).flatten(1) + bias[:, None]
        means.append(out.mean(dim=1))
        variances.append(out.var(dim=1))
    return torch.stack(means).mean(dim=0), torch.stack(variances).mean(dim=0)


def fit(root: Path, *callbacks: Callback, epochs: int = 2) -> tuple[SegmentationTask, Normed, Look]:
    torch.manual_seed(0)
    look = Look()
    network = Normed()
    task = SegmentationTask(
        network, optimizer=lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9)
    )
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=[*callbacks, look])
    trainer.fit(task, datamodule=Images())
    return task, network, look


@pytest.mark.parametrize("batches", [2, 20])
def test_statistics_are_those_of_the_weights_that_are_validated(
    tmp_path: Path, batches: int
) -> None:
    _, _, look = fit(tmp_path, PreciseBatchNorm(batches))
    mean, variance = statistics(look.seen, min(batches, 3))
    torch.testing.assert_close(look.seen["norm.running_mean"], mean)
    torch.testing.assert_close(look.seen["norm.running_var"], variance)


def test_averaged_weights_get_their_own_in_either_order(tmp_path: Path) -> None:
    for callbacks in (
        [PreciseBatchNorm(), EMAWeightAveraging(decay=0.7)],
        [EMAWeightAveraging(decay=0.7), PreciseBatchNorm()],
    ):
        _, _, look = fit(tmp_path, *callbacks)
        mean, variance = statistics(look.seen, 3)
        torch.testing.assert_close(look.seen["norm.running_mean"], mean)
        torch.testing.assert_close(look.seen["norm.running_var"], variance)


def test_training_is_not_touched(tmp_path: Path) -> None:
    _, network, look = fit(tmp_path, PreciseBatchNorm(), epochs=3)
    _, plain, other = fit(tmp_path, epochs=3)
    named = dict(plain.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=0, atol=0)
    assert not torch.allclose(look.seen["norm.running_mean"], other.seen["norm.running_mean"])
    assert network.norm.momentum == plain.norm.momentum == 0.1
    for name in ("running_mean", "running_var"):
        assert not torch.allclose(look.seen[f"aside.{name}"], other.seen[f"aside.{name}"])
        frozen = f"backbone.norm.{name}"
        torch.testing.assert_close(look.seen[frozen], other.seen[frozen])


def test_batches_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    data = Phantom(root, counts=(6, 2, 1), image_size=32, batch_size=2)
    seen: list[list[str]] = []
    terms = SegmentationTask.training_terms

    def noted(task: SegmentationTask, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not task.training:
            seen.append(batch["name"])
        return terms(task, batch)

    monkeypatch.setattr(SegmentationTask, "training_terms", noted)
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[PreciseBatchNorm(2)])
    trainer.fit(SegmentationTask(Normed()), datamodule=data)
    assert len(seen) == 4
    assert seen[:2] == seen[2:]


def test_validation_of_a_checkpoint_leaves_its_statistics(tmp_path: Path) -> None:
    task, network, _ = fit(tmp_path)
    assert network.norm.running_mean is not None
    before = network.norm.running_mean.clone()
    trainer = quiet_trainer(tmp_path, callbacks=[PreciseBatchNorm()])
    trainer.validate(task, datamodule=Images(), verbose=False)
    torch.testing.assert_close(network.norm.running_mean, before, rtol=0, atol=0)
