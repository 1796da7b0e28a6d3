"""What a segmentation run leaves behind: pictures, tables and masks."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cv2
import lightning
import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lcpdn_pl.callbacks.run import is_own_data, show_hparams
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.data.masks import resize_mask
from lcpdn_pl.files import save_figure, write_whole
from lcpdn_pl.metrics import IGNORE, shift
from lcpdn_pl.plotting import Panel, overlay_sheet, save_panels
from lcpdn_pl.rasters import sixteen_bit
from lcpdn_pl.tasks.segmentation import RULES, SegmentationTask, by_rule

Found = TypeVar("Found")
BINS = 15
"""Ranges of probability in ``reliability.csv``."""


class OverlaySheets(Callback):
    """Logs overlay sheets of the first validation images to TensorBoard.

    Args:
        every_n_epochs: Epochs from one sheet to the next; the end of the run always gets one.
        rows: Images on a sheet.
    """

    def __init__(self, every_n_epochs: PositiveInt = 5, rows: PositiveInt = 6) -> None:
        self.every_n_epochs = every_n_epochs
        self.rows = rows
        self._panels: list[Panel] = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,  # noqa: ARG002 - Lightning's signature
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Keeps the first images of an epoch whose sheet is due."""
        if not isinstance(pl_module, SegmentationTask):
            return
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
        due = epoch % self.every_n_epochs == 0 or last
        room = self.rows - len(self._panels)
        if due and room and not trainer.sanity_checking:
            self._panels += panels(batch, outputs)[:room]

    def on_validation_epoch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Draws what was kept."""
        if self._panels and isinstance(trainer.logger, TensorBoardLogger):
            sheet = overlay_sheet(self._panels, f"validation, epoch {trainer.current_epoch + 1}")
            trainer.logger.experiment.add_figure("val/overlay", sheet, trainer.global_step)
        self._panels = []


class TestReport(Callback):
    """Writes a test's results and prints them.

    Into ``<run folder>/test/<data>/`` go ``per_image.csv``, ``metrics.csv``, ``metrics.md``,
    ``overlay.png`` and, for ``lcpdn report``, ``panels.npz`` (what the sheet shows),
    ``reliability.csv`` (how much of what has a probability is foreground, by the mask rule of
    training) and ``facts.json`` (parameters, step, time and memory); a test with other reports, of
    images made worse or by the mean over turns gets a folder of its own.

    Args:
        rows: Images on the overlay sheet, evenly spread over the test split.
    """

    def __init__(self, rows: PositiveInt = 8) -> None:
        self.rows = rows
        self._start_again()

    def _start_again(self) -> None:
        """By the image's number: several processes share the images out in turn."""
        self._rows: dict[int, dict[str, Any]] = {}
        self._panels: dict[int, Panel] = {}
        self._seconds: dict[int, float] = {}
        self._bins = torch.zeros(3, BINS, dtype=torch.float64)

    def on_test_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keeps the figures of another test than the run's own out of the HParams tab.

        It has one row a run, and would show the last ones that were logged.
        """
        if _changes(trainer, pl_module) or not is_own_data(trainer):
            trainer.loggers = []

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Keeps the image's row, its time and, if its turn comes, its panel."""
        assert isinstance(pl_module, SegmentationTask)  # noqa: S101 - the only one with rows
        index = batch_idx * trainer.world_size + trainer.global_rank
        self._seconds[index] = outputs["seconds"]
        self._rows[index] = outputs["row"]
        rule = trainer.datamodule.mask_rule  # type: ignore[attr-defined]
        # The threshold is a matter of the mask; the probability is what the network gives.
        logits = shift(outputs["logits"], 1 - pl_module.threshold)
        self._bins += probability_bins(*by_rule(rule, logits, batch["mask"]))
        count = len(trainer.test_dataloaders.dataset)  # type: ignore[union-attr]
        if index in np.linspace(0, count - 1, min(self.rows, count)).round():
            (self._panels[index],) = panels(batch, outputs["logits"])

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes everything, in the first process what all of them have found."""
        assert isinstance(pl_module, SegmentationTask)  # noqa: S101 - the only one with rows
        rows, shown, seconds = (
            in_order(trainer, found) for found in (self._rows, self._panels, self._seconds)
        )
        bins = in_order(trainer, {trainer.global_rank: self._bins})
        self._start_again()
        if trainer.is_global_zero:
            self._write(trainer, pl_module, rows, shown, seconds, torch.stack(bins).sum(dim=0))

    def _write(
        self,
        trainer: lightning.Trainer,
        pl_module: SegmentationTask,
        rows: list[dict[str, Any]],
        shown: list[Panel],
        seconds: list[float],
        bins: Tensor,
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        name = "_".join([data.name, *_changes(trainer, pl_module)])
        folder = Path(trainer.default_root_dir, "test", name)
        metrics = _metrics_table(trainer.callback_metrics)
        backbones = pl_module.network.describe_backbones()
        caption = "; ".join(f"{part}: {what}" for part, what in backbones.items())
        title = f"{type(pl_module.network).__name__} on {name}, {len(rows)} test images"
        if pl_module.calibrate:
            title += f", threshold {pl_module.threshold:.2f} chosen on validation images"
        write_whole(folder / "per_image.csv", pd.DataFrame(rows).to_csv(index=False))
        write_whole(folder / "metrics.csv", metrics.to_csv(index=False))
        write_whole(folder / "metrics.md", _markdown(metrics, title, caption))
        save_figure(overlay_sheet(shown, title), folder / "overlay.png")
        save_panels(shown, folder / "panels.npz")
        write_whole(folder / "reliability.csv", _reliability(bins).to_csv(index=False))
        trainable, frozen = pl_module.network.count_parameters()
        facts = {
            "method": pl_module.method,
            "data": data.name,
            "test_reports": data.test_reports,
            "test_corruption": data.test_corruption,
            "test_strength": data.test_strength,
            "test_turns": pl_module.test_turns,
            "threshold": pl_module.threshold,
            "backbones": backbones,
            "trainable": trainable,
            "frozen": frozen,
            "best_step": pl_module.trained_steps,
            "seconds_per_image": float(np.median(seconds)),
            "peak_memory_gib": _peak_memory(pl_module.device),
        }
        write_whole(folder / "facts.json", json.dumps(facts, indent=1) + "\n")
        show_hparams(trainer)
        _print_table(metrics, title, caption)
        told = f"Per-image results, tables and overlay sheet: {folder}"
        Console().print(told, soft_wrap=True, markup=False)


class PredictionWriter(BasePredictionWriter):
    """Writes each predicted mask, 0 or 255 at the image's own size, and an overlay sheet.

    Masks go into ``<run folder>/predict/<data>/``, the sheet into ``sheet/`` there, since an image
    may have any name. Where a method predicts its uncertainty too, it goes into ``uncertainty/``: a
    deviation as 16-bit grey, 65535 for 1, as ``lcpdn segment`` writes it.

    Args:
        rows: Images on the overlay sheet, the first ones.
    """

    def __init__(self, rows: PositiveInt = 8) -> None:
        super().__init__(write_interval="batch")
        self.rows = rows
        self._panels: list[Panel] = []

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        prediction: Tensor,
        batch_indices: Any,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int,  # noqa: ARG002
    ) -> None:
        """Called by Lightning with one image's probability and uncertainty, [1 or 2, H, W]."""
        mask = (prediction[0] > 0.5).byte().cpu().numpy()
        folder, name = _predict_folder(trainer), f"{batch['name'][0]}.png"
        _write_png(folder / name, mask * 255)
        for uncertainty in prediction[1:].float().cpu().numpy():
            _write_png(folder / "uncertainty" / name, sixteen_bit(uncertainty))
        if len(self._panels) < self.rows:
            height, width = batch["image"].shape[-2:]
            small = resize_mask(mask, (height, width), "native")
            logits = np.stack([1.0 - small, small])[None]
            self._panels += panels(batch, batch["image"].new_tensor(logits))

    def on_predict_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
    ) -> None:
        """Writes the sheet and says where everything is."""
        if not trainer.is_global_zero:
            return
        folder = _predict_folder(trainer)
        title = f"{type(pl_module.network).__name__}, predictions"
        save_figure(overlay_sheet(self._panels, title), folder / "sheet" / "overlay.png")
        told = f"Predicted masks and overlay sheet: {folder}"
        Console().print(told, soft_wrap=True, markup=False)
        self._panels = []


def in_order(trainer: lightning.Trainer, found: dict[int, Found]) -> list[Found]:
    """What all processes have found, in the order of its numbers."""
    parts = [found]
    if trainer.world_size > 1:
        parts = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(parts, found)
    together = {number: one for part in parts for number, one in part.items()}
    return [together[number] for number in sorted(together)]


def probability_bins(logits: Tensor, target: Tensor) -> Tensor:
    """Counts pixels by their foreground probability, in :data:`BINS` equal ranges of it.

    Args:
        logits: [1, 2, H, W].
        target: [1, H, W]; 255 is ignored.

    Returns:
        [3, BINS] of float64: pixels, sum of their probabilities, foreground pixels.
    """
    valid = target != IGNORE
    probability = logits.float().softmax(dim=1)[:, 1][valid].cpu().double()
    foreground = (target[valid] == 1).cpu().double()
    index = (probability * BINS).long().clamp(max=BINS - 1)
    weights = (torch.ones_like(probability), probability, foreground)
    return torch.stack([torch.bincount(index, weight, BINS) for weight in weights])


def _changes(trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> list[str]:
    """What a test has otherwise than the run's own."""
    assert isinstance(pl_module, SegmentationTask)  # noqa: S101 - the only one with tests
    data = trainer.datamodule  # type: ignore[attr-defined]
    changes = [] if data.test_reports == "right" else [data.test_reports]
    if data.test_corruption != "none":
        changes.append(f"{data.test_corruption}{data.test_strength}")
    return changes + (["turns"] if pl_module.test_turns else [])


def _reliability(bins: Tensor) -> pd.DataFrame:
    pixels, probability, foreground = bins.numpy()
    count = np.maximum(pixels, 1)
    return pd.DataFrame(
        {
            "bin": np.arange(BINS),
            "pixels": pixels.astype(int),
            "probability": probability / count,
            "share": foreground / count,
        }
    )


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    _, png = cv2.imencode(".png", pixels)
    write_whole(path, png.tobytes())


def panels(batch: Batch, logits: Tensor) -> list[Panel]:
    """Panels of a batch at the network's size, whatever size its masks have, on the CPU."""
    size = (batch["image"].shape[-2], batch["image"].shape[-1])
    result = []
    for index, name in enumerate(batch["name"]):
        mask = resize_mask(batch["mask"][index].byte().cpu().numpy(), size, "native")
        result.append(
            Panel(
                batch["image"][index].cpu(),
                batch["text"][index],
                name,
                logits[index].argmax(dim=0).cpu(),
                None if (mask == IGNORE).all() else torch.from_numpy(mask).long(),
            )
        )
    return result


def _peak_memory(device: torch.device) -> float:
    """GiB that this process took at most: of the GPU, or of the machine if there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return float("nan")
    import resource  # not there on Windows

    # In KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _predict_folder(trainer: lightning.Trainer) -> Path:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return Path(trainer.default_root_dir, "predict", data.name)


def _metrics_table(logged: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row a mask rule, in percent."""
    names = ("dice", "iou", "dice_global", "iou_global")
    return pd.DataFrame(
        [
            {"mask rule": rule}
            | {name: 100 * float(logged[f"test/{rule}/{name}"]) for name in names}
            for rule in RULES
        ]
    )


def _markdown(metrics: pd.DataFrame, title: str, caption: str) -> str:
    lines = [" | ".join(metrics.columns), " | ".join("---" for _ in metrics.columns)]
    for rule, *values in metrics.itertuples(index=False):
        lines.append(" | ".join([rule, *(f"{value:.2f}" for value in values)]))
    rows = "\n".join(f"| {line} |" for line in lines)
    return f"# {title}\n\n{rows}\n\nBackbones: {caption or 'none'}\n"


def _print_table(metrics: pd.DataFrame, title: str, caption: str) -> None:
    table = Table(title=title, caption=caption or None, title_justify="left")
    for column in metrics.columns:
        table.add_column(column, justify="left" if column == "mask rule" else "right")
    for rule, *values in metrics.itertuples(index=False):
        table.add_row(rule, *(f"{value:.2f}" for value in values))
    Console().print(table)
