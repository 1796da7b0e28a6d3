"""The task: what is trained, what is scored, what a checkpoint holds."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lcpdn_pl.backbones.base import FrozenBackbone
from lcpdn_pl.data import Phantom
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.errors import CheckpointError, ConfigError, RunError
from lcpdn_pl.models import LCPDN
from lcpdn_pl.models.base import Network
from lcpdn_pl.tasks import SegmentationTask
from lcpdn_pl.tasks.base import BAD_BATCH
from lcpdn_pl.tasks.turns import mean_over_turns
from tests.conftest import quiet_trainer


class Bright(Network):
    """Foreground where the red channel is positive, behind a frozen convolution."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = FrozenBackbone()
        self.backbone.conv = nn.Conv2d(3, 3, 1)
        self.backbone.freeze("stub", pretrained=False)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, image: Tensor, text: Any) -> Tensor:  # noqa: ARG002 - reads no report
        score = self.scale * image[:, 0]
        return torch.stack([-score, score], dim=1)


class Corner(Bright):
    """Brightness counts the more, the further right a pixel is."""

    def forward(self, image: Tensor, text: Any) -> Tensor:
        return super().forward(image * torch.linspace(0, 1, image.shape[-1]), text)


def test_task_names_its_network_and_says_what_is_trained(tiny_network: dict[str, Any]) -> None:
    assert SegmentationTask(LCPDN(**tiny_network)).method == "lcpdn"
    described = SegmentationTask(Bright()).describe()
    assert list(described) == ["network", "  backbone", "parameters"]
    assert described["network"] == "Bright"
    assert described["  backbone"].startswith("stub, ")
    assert described["parameters"] == "1 trainable, 12 frozen"


def test_optimizer_gets_trainable_parameters_alone() -> None:
    task = SegmentationTask(Bright())
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert group["params"] == [task.network.scale]
    assert group["lr"] == 1e-4


def test_scheduler_is_built_on_the_optimizer() -> None:
    task = SegmentationTask(
        Bright(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.5),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
    )
    built = task.configure_optimizers()
    assert isinstance(built, dict)
    parts = dict(built)
    scheduler = parts["lr_scheduler"]
    assert isinstance(scheduler, torch.optim.lr_scheduler.StepLR)
    assert scheduler.optimizer is parts["optimizer"]


def test_a_network_adds_terms_of_its_own_in_training_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shy(Bright):
        def training_forward(self, image: Tensor, text: Any) -> tuple[Tensor, dict[str, Tensor]]:
            return self(image, text), {"shyness": 3 * self.scale, "size": self.scale.square()}

    generator = torch.Generator().manual_seed(0)
    batch: Batch = {
        "image": torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1,
        "mask": torch.randint(0, 2, (1, 4, 4), generator=generator),
        "text": [""],
        "name": ["a"],
    }
    task = SegmentationTask(Shy())
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(task, "log_dict", lambda values, **_: logged.update(values))
    _, loss = task._step("train", batch)
    wanted = task.loss(task.network(batch["image"], [""]), batch["mask"])["loss"] + 30 + 100
    torch.testing.assert_close(loss, wanted)
    assert loss.requires_grad
    torch.testing.assert_close(logged["train/loss"], wanted.detach())
    assert [logged[f"train/{name}"].item() for name in ("shyness", "size")] == [30, 100]
    _, loss = task._step("val", batch)
    torch.testing.assert_close(loss, wanted - 130)


def test_test_step_scores_both_rules_as_written_out() -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((50, 60)) > 0.7).astype(np.int64)
    image = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 16, 16))).float()
    batch: Batch = {
        "image": image,
        "mask": torch.from_numpy(mask)[None],
        "text": [""],
        "name": ["a"],
    }
    task = SegmentationTask(Bright())
    row = task.test_step(batch, 0)["row"]

    small = cv2.resize((mask * 255).astype(np.uint8), (16, 16), interpolation=cv2.INTER_LINEAR) > 0
    predicted = image[0, 0].numpy() > 0
    large = nn.functional.interpolate(image[:, :1], (50, 60), mode="bilinear")[0, 0].numpy() > 0
    for rule, found, truth in (("compat", predicted, small), ("native", large, mask == 1)):
        overlap = (found & truth).sum()
        assert row[f"{rule}/dice"] == pytest.approx(2 * overlap / (found.sum() + truth.sum()))
        assert row[f"{rule}/iou"] == pytest.approx(overlap / (found | truth).sum())
    probability = task.predict_step(batch, 0)
    assert probability.shape == (1, 50, 60)
    assert np.array_equal(probability[0].detach().numpy() > 0.5, large)


def test_checkpoint_leaves_frozen_weights_out_and_takes_them_back() -> None:
    task = SegmentationTask(Bright())
    checkpoint: dict[str, Any] = {
        "state_dict": task.state_dict(),
        "current_model_state": task.state_dict(),  # beside averaged weights
    }
    task.on_save_checkpoint(checkpoint)
    assert list(checkpoint["state_dict"]) == ["network.scale"]
    assert list(checkpoint["current_model_state"]) == ["network.scale"]
    assert "stub" in checkpoint["backbones"]["backbone"]
    assert "RANDOM" in checkpoint["backbones"]["backbone"]
    fresh = SegmentationTask(Bright())
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=True)
    fresh.load_state_dict(checkpoint["current_model_state"], strict=True)


def test_checkpoint_of_another_backbone_or_network_is_refused() -> None:
    task = SegmentationTask(Bright())
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="other backbones"):
        SegmentationTask(Bright(seed=1)).on_load_checkpoint(checkpoint)
    checkpoint["state_dict"]["network.extra"] = checkpoint["state_dict"].pop("network.scale")
    with pytest.raises(CheckpointError, match=r"missing \['network.scale'\].*\['network.extra'\]"):
        task.on_load_checkpoint(checkpoint)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_batch(tmp_path: Path) -> None:
    good, bad = torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)
    batches: list[Batch] = [
        {"image": image, "mask": torch.ones(1, 8, 8).long(), "text": [""], "name": [name]}
        for image, name in ((good, "fine"), (bad, "broken"))
    ]
    network = Bright()
    before = network.scale.item()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    with pytest.raises(RunError, match=r"loss of step 1 is nan: .* images were broken; their"):
        trainer.fit(SegmentationTask(network), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    kept = torch.load(tmp_path / BAD_BATCH, weights_only=True)
    assert kept["name"] == ["broken"]
    assert kept["image"].isnan().all()
    after = network.scale.item()
    assert np.isfinite(after)
    assert after != before  # the step before it


def test_a_frozen_backbone_keeps_its_batch_norms(tmp_path: Path) -> None:
    network = Bright()
    network.backbone.norm = nn.BatchNorm2d(3)
    task = nn.SyncBatchNorm.convert_sync_batchnorm(SegmentationTask(network))  # as Lightning does
    batch = {"image": torch.rand(1, 3, 8, 8), "mask": torch.ones(1, 8, 8).long(), "text": [""]}
    with pytest.raises(ConfigError, match=r"sync_batchnorm is true, .* frozen network\.backbone"):
        quiet_trainer(tmp_path, max_epochs=1).fit(task, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]


def test_gradients_that_overflow_half_precision_for_good_end_the_run(tmp_path: Path) -> None:
    batch = {
        "image": torch.rand(1, 3, 8, 8),
        "mask": torch.ones(1, 8, 8).long(),
        "text": [""],
        "name": ["fine"],
    }
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    scales = iter([1.0, 0.5])

    class Falling:
        def get_scale(self) -> float:
            return next(scales)

    trainer.precision_plugin.scaler = Falling()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"16-mixed is down to 0\.5 at step 2: .* bf16-mixed"):
        trainer.fit(SegmentationTask(Bright()), DataLoader([batch], batch_size=None))  # type: ignore[arg-type]


def test_a_validation_loss_that_is_not_finite_leaves_the_checkpoints(tmp_path: Path) -> None:
    """A network that the last step broke must not become the newest checkpoint."""
    batch: Batch = {
        "image": torch.rand(1, 3, 8, 8),
        "mask": torch.ones(1, 8, 8).long(),
        "text": [""],
        "name": ["fine"],
    }
    broken: Batch = {**batch, "image": torch.full((1, 3, 8, 8), torch.nan), "name": ["broken"]}
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val/dice", mode="max")
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        callbacks=[keep],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train: DataLoader[Batch] = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    val: DataLoader[Batch] = DataLoader([broken], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"loss of step 1 is nan: .* images were broken; their"):
        trainer.fit(SegmentationTask(Bright()), train, val)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("turns", [True, False])
def test_test_turns_average_over_the_turns_of_each_image(tmp_path: Path, turns: bool) -> None:
    image, mask = torch.randn(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)
    report = "The nuclei lie evenly."
    batch: Batch = {"image": image, "mask": mask, "text": [report], "name": ["a"]}
    plain, turned = Corner(), SegmentationTask(Corner(), test_turns=True)
    turned.trainer = quiet_trainer(tmp_path)
    turned.trainer.datamodule = Phantom()  # type: ignore[attr-defined]
    turned.trainer.datamodule.turns = turns  # type: ignore[attr-defined]
    logits = turned.test_step(batch, 0)["logits"]
    torch.testing.assert_close(logits, mean_over_turns(plain, image, report, turns))
    other = mean_over_turns(plain, image, report, not turns)
    assert not torch.allclose(logits, other)
    assert not torch.allclose(logits, plain(image, [report]))
    torch.testing.assert_close(turned.predict_step(batch, 0), logits.softmax(dim=1)[:, 1])


def brightness(probability: Tensor) -> Tensor:
    """Red where Bright() sees foreground of this probability."""
    image = torch.zeros(1, 3, *probability.shape)
    image[0, 0] = probability.logit() / 20
    return image


def test_calibration_takes_the_threshold_of_the_best_validation_dice(tmp_path: Path) -> None:
    # Of 0.55, 0.65 and 0.85 the last is foreground in one image, and the last two in the other: a
    # threshold between the first two finds 1 / 2 and 1, one above 0.65 finds 1 and 2 / 3.
    image = brightness(torch.tensor([[0.55, 0.65, 0.85]]))
    batches: list[Batch] = [
        {"image": image, "mask": torch.tensor([[mask]]), "text": [""], "name": [str(mask)]}
        for mask in ([0, 0, 1], [0, 1, 1])
    ]
    loader: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    task = SegmentationTask(Bright(), calibrate=True)
    trainer = quiet_trainer(tmp_path)
    (logged,) = trainer.validate(task, loader, verbose=False)
    assert task.threshold == 0.6 == pytest.approx(logged["val/threshold"])
    assert logged["val/dice"] == pytest.approx((2 / 3 + 1) / 2)

    plain = SegmentationTask(Bright())
    (logged,) = trainer.validate(plain, loader, verbose=False)
    assert plain.threshold == 0.5
    assert logged["val/dice"] == pytest.approx((1 / 2 + 4 / 5) / 2)

    # What it makes of an image, and what a checkpoint keeps of it.
    for tested in (task, SegmentationTask(Bright())):
        if tested is not task:
            checkpoint = {"state_dict": task.state_dict()}
            task.on_save_checkpoint(checkpoint)
            tested.on_load_checkpoint(checkpoint)
        result = tested.test_step(batches[1], 0)
        assert result["row"]["native/dice"] == 1
        foreground = result["logits"].softmax(dim=1)[0, 1, 0]
        odds = torch.tensor([0.55, 0.65, 0.85]).logit() - torch.tensor(0.6).logit()
        torch.testing.assert_close(foreground, odds.sigmoid())
        torch.testing.assert_close(tested.predict_step(batches[1], 0)[0, 0], foreground)
    assert plain.test_step(batches[1], 0)["row"]["native/dice"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan"), "0.5", None])
def test_a_checkpoint_whose_threshold_is_none_is_refused(threshold: Any) -> None:
    task = SegmentationTask(Bright())
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"threshold is .*: expected a probability"):
        task.on_load_checkpoint(checkpoint | {"threshold": threshold})
