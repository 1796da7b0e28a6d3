"""What a pretraining run leaves behind, and when; the command-line tests look at whole runs."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lcpdn_pl.callbacks import PretrainingReport, pretraining
from lcpdn_pl.data import ImagePool, Source
from lcpdn_pl.data.pool import pixel_hash
from lcpdn_pl.tasks import DenoisingTask
from tests.conftest import quiet_trainer, write_images

Files = dict[str, str | bytes]


@pytest.fixture
def task(tiny_denoiser: str) -> DenoisingTask:
    return DenoisingTask(
        tiny_denoiser, optimizer=lambda params: torch.optim.SGD(params, lr=0.1), warmup_steps=1
    )


@pytest.fixture
def pool(tmp_path: Path) -> ImagePool:
    sources = [
        Source(str(write_images(tmp_path / "nuclei", 20)), turns=True),
        Source(str(write_images(tmp_path / "lungs", 10, size=48))),
    ]
    return ImagePool(
        sources,
        name="both",
        crops=[(8, 2), (16, 1)],
        sides=(16, 40),
        batches=4,
        held_out=2,
        held_out_side=16,
    )


def small_report(every_n_epochs: int = 1) -> PretrainingReport:
    return PretrainingReport(every_n_epochs, samples=3, side=16)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, torch.Tensor, Files]]:
    """Keeps what is exported instead of writing it, and draws no picture."""
    kept: list[tuple[Path, torch.Tensor, Files]] = []

    def keep(unet: UNet2DModel, folder: Path, documents: Files) -> None:
        kept.append((folder, unet.conv_in.weight.clone(), documents))

    monkeypatch.setattr(pretraining, "save_denoiser", keep)
    monkeypatch.setattr(pretraining, "figure_png", lambda _figure: b"picture")
    return kept


def curve_of(report: PretrainingReport) -> pd.DataFrame:
    return pd.DataFrame(report.state_dict()["curve"])


def test_exports_come_every_n_epochs_and_last(
    task: DenoisingTask, pool: ImagePool, exports: list[Any], tmp_path: Path
) -> None:
    report = small_report(2)
    averages = []

    class Noting(lightning.Callback):
        def on_validation_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if not trainer.sanity_checking:
                averages.append(task.ema.get_parameter("module.conv_in.weight").clone())

    quiet_trainer(tmp_path, max_epochs=5, callbacks=[report, Noting()], num_sanity_val_steps=1).fit(
        task, datamodule=pool
    )
    assert [folder for folder, _, _ in exports] == [tmp_path / "denoiser"] * 3
    for (_, weight, documents), epoch in zip(exports, (2, 4, 5), strict=True):
        assert torch.equal(weight, averages[epoch - 1])
        assert documents["curve.csv"].count("\n") == 1 + epoch
        assert f"\n{4 * epoch} steps in " in documents["README.md"]
    assert curve_of(report)["step"].tolist() == [4, 8, 12, 16, 20]  # none of the sanity check


def test_images_are_hashed_once(
    task: DenoisingTask,
    pool: ImagePool,
    exports: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed = []

    def note(path: Path) -> str:
        hashed.append(path)
        return path.stem

    monkeypatch.setattr(pretraining, "pixel_hash", note)
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[small_report()]).fit(task, datamodule=pool)
    first, second = (documents["images.csv"] for _, _, documents in exports)
    assert first == second
    assert len(hashed) == len(set(hashed)) == 30


def test_nothing_is_exported_but_by_a_fit(
    task: DenoisingTask, pool: ImagePool, exports: list[Any], tmp_path: Path
) -> None:
    report = small_report()
    quiet_trainer(tmp_path, callbacks=[report]).validate(task, datamodule=pool, verbose=False)
    assert not exports
    assert report.state_dict()["curve"] == []


@pytest.mark.parametrize(
    ("options", "steps", "seconds"),
    [
        ({"max_epochs": 2}, [4, 8], [40, 80]),
        ({"max_epochs": 2, "val_check_interval": 2}, [2, 4, 6, 8], [20, 40, 60, 80]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, [8, 16], [80, 160]),
    ],
)
def test_clock_counts_training_alone(
    options: dict[str, Any],
    steps: list[int],
    seconds: list[float],
    task: DenoisingTask,
    pool: ImagePool,
    exports: list[Any],  # noqa: ARG001 - keeps the disk out of it
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    train, validate = task.training_step, task.validation_step

    def training_step(*args: Any) -> torch.Tensor:
        nonlocal clock
        clock += 10
        return train(*args)

    def validation_step(*args: Any) -> None:
        nonlocal clock
        clock += 100
        validate(*args)

    monkeypatch.setattr(task, "training_step", training_step)
    monkeypatch.setattr(task, "validation_step", validation_step)
    monkeypatch.setattr(pretraining, "time", SimpleNamespace(perf_counter=lambda: clock))
    report = small_report(10)
    quiet_trainer(tmp_path, callbacks=[report], num_sanity_val_steps=1, **options).fit(
        task, datamodule=pool
    )
    curve = curve_of(report)
    assert curve["step"].tolist() == steps
    np.testing.assert_allclose(3600 * curve["hours"], seconds)


def test_curve_and_clock_survive(
    task: DenoisingTask, pool: ImagePool, exports: list[Any], tmp_path: Path
) -> None:
    report = small_report(10)
    report.load_state_dict({"curve": [{"step": 7, "hours": 3.0, "loss": 2.0}], "seconds": 10_800.0})
    quiet_trainer(tmp_path, max_epochs=1, callbacks=[report]).fit(task, datamodule=pool)
    curve = curve_of(report)
    assert curve["step"].tolist() == [7, 4]
    assert 3 < curve["hours"].iloc[1] < 3.1
    other = small_report()
    other.load_state_dict(report.state_dict())
    assert other.state_dict() == report.state_dict()
    assert len(exports) == 1


def test_documents_say_what_was_seen_and_reached(
    task: DenoisingTask, pool: ImagePool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run [mine]"
    trainer = quiet_trainer(
        run,
        max_epochs=2,
        callbacks=[small_report(2)],
        logger=TensorBoardLogger(str(run), name="", version=""),
        log_every_n_steps=1,
    )
    trainer.fit(task, datamodule=pool)
    folder = run / "denoiser"
    assert f"--model.network.denoiser={folder}" in capsys.readouterr().out

    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    for key, value in task.ema.module.state_dict().items():
        assert torch.equal(weights[key], value.half())

    curve = pd.read_csv(folder / "curve.csv")
    names = ["loss_000_099", "loss_100_299", "loss_300_599", "loss_600_999"]
    assert set(curve.columns) == {"step", "hours", "loss", *names}
    assert curve["step"].tolist() == [4, 8]
    np.testing.assert_allclose(curve["loss"], curve[names].mean(axis=1), rtol=1e-6)
    for name in ("loss", *names):
        logged = trainer.callback_metrics[f"val/{name}"].item()
        assert curve[name].iloc[-1] == pytest.approx(logged, rel=1e-6)

    images = pd.read_csv(folder / "images.csv")
    assert (
        images["source"].tolist()
        == [str(tmp_path / "nuclei")] * 20 + [str(tmp_path / "lungs")] * 10
    )
    counts = images.groupby(["source", "split"], sort=False).size()
    assert counts.tolist() == [18, 2, 9, 1]
    for row in images.itertuples():
        assert row.pixels_sha256 == pixel_hash(Path(str(row.source), str(row.name)))
    assert images["pixels_sha256"].nunique() == 30

    card = (folder / "README.md").read_text()
    count = sum(value.numel() for value in weights.values())
    for line in (
        "# Denoiser trained on both",
        f"| {tmp_path / 'nuclei'} | 18 | 2 |",
        f"| {tmp_path / 'lungs'} | 9 | 1 |",
        f"| 600 to 999 | {curve['loss_600_999'].iloc[-1]:.4f} |",
        f"| mean | {curve['loss'].iloc[-1]:.4f} |",
    ):
        assert line in card.splitlines()
    text = re.sub(r"\s+", " ", card)
    assert f"into channels. {count:,} parameters, averaged over training" in text
    assert "batches of 2 of 8 x 8, 1 of 16 x 16 pixels cut from images" in text
    assert "shorter side is 16 to 40 pixels" in text
    assert "2 x 2 pixels folded into channels" in text

    events = EventAccumulator(str(run))
    events.Reload()
    (drawn,) = events.Images("samples")
    assert drawn.step == 8
    for picture in re.findall(r"!\[.*\]\((.*)\)", card):
        with Image.open(folder / picture) as opened:
            assert min(opened.size) > 100
