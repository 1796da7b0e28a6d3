"""What a pretraining run leaves behind: curves, samples, and the denoiser itself."""

import time
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from lcpdn_pl.backbones.weights import save_denoiser
from lcpdn_pl.data.pool import ImagePool, pixel_hash
from lcpdn_pl.files import figure_png
from lcpdn_pl.plotting import image_grid, loss_curves
from lcpdn_pl.tasks.denoising import DenoisingTask

FOLDER = "denoiser"


class PretrainingReport(Callback):
    """Draws samples and curves of a pretraining run and exports its denoiser.

    Every ``every_n_epochs`` epochs and after the last one, ``<run folder>/denoiser`` is written
    anew, whole: averaged weights in half precision (safetensors) and configuration, as any
    ``denoiser`` option takes them, with a model card ``README.md``, ``curve.png``, ``curve.csv``,
    ``samples.png`` and ``images.csv``, the hashes of the images that it has seen. The curve and the
    time spent survive a resume.

    Args:
        every_n_epochs: Epochs from one export to the next.
        samples: Images on the sample sheet.
        side: Their side in pixels.
    """

    def __init__(self, every_n_epochs: int = 5, samples: int = 16, side: int = 128) -> None:
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self.side = side
        self._curve: list[dict[str, float]] = []
        self._seconds = 0.0
        self._since = 0.0
        self._exported = 0
        self._images = pd.DataFrame()

    def state_dict(self) -> dict[str, Any]:
        """Curve and time, kept in checkpoints."""
        return {"curve": self._curve, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up curve and time again."""
        self._curve, self._seconds = state_dict["curve"], state_dict["seconds"]

    def on_train_start(self, *_: object) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Stops the clock: only training counts."""
        if not trainer.sanity_checking:
            self._seconds += time.perf_counter() - self._since

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Notes the losses and, if its turn has come, exports everything."""
        if not isinstance(pl_module, DenoisingTask) or trainer.state.fn != "fit":
            return
        if trainer.sanity_checking:
            return
        losses = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        self._curve.append({"step": trainer.global_step, "hours": self._seconds / 3600} | losses)
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._export(trainer, pl_module)

    def on_validation_end(self, *_: object) -> None:
        """Starts the clock again."""
        self._since = time.perf_counter()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Exports what came after the last export, and says where it is and how to use it."""
        if not isinstance(pl_module, DenoisingTask) or not self._curve:
            return
        if self._exported < trainer.global_step:
            self._export(trainer, pl_module)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir, FOLDER)
            Console().print(
                f"Denoiser: {folder}\n"
                f"Use it with: lcpdn fit --config configs/monuseg.yaml "
                f"--model.network.denoiser={folder}",
                soft_wrap=True,
                markup=False,
            )

    def _export(self, trainer: lightning.Trainer, task: DenoisingTask) -> None:
        step = self._exported = trainer.global_step
        if not trainer.is_global_zero:
            return
        pool = trainer.datamodule  # type: ignore[attr-defined]
        if self._images.empty:  # once: every image is decoded for it
            self._images = _hash_images(pool)
        samples = image_grid(task.sample(self.samples, self.side), f"samples after {step} steps")
        curve = pd.DataFrame(self._curve)
        curves = loss_curves(curve)
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_figure("samples", samples, step)
        documents: dict[str, str | bytes] = {
            "samples.png": figure_png(samples),
            "curve.png": figure_png(curves),
            "curve.csv": curve.to_csv(index=False),
            "README.md": _model_card(task, pool, curve),
            "images.csv": self._images.to_csv(index=False),
        }
        save_denoiser(task.ema.module, Path(trainer.default_root_dir, FOLDER), documents)


def _hash_images(pool: ImagePool) -> pd.DataFrame:
    """The images by hash of their pixels: those learnt from, and those held out."""
    return pd.DataFrame(
        {
            "source": pool.samples["source"],
            "split": pool.samples["split"],
            "name": [Path(image).name for image in pool.samples["image"]],
            "pixels_sha256": [pixel_hash(Path(image)) for image in pool.samples["image"]],
        }
    )


def _model_card(task: DenoisingTask, pool: ImagePool, curve: pd.DataFrame) -> str:
    last = curve.iloc[-1]
    counts = pool.samples.groupby(["source", "split"], sort=False).size()
    data = "\n".join(
        f"| {source} | {counts.get((source, 'train'), 0)} | {counts.get((source, 'val'), 0)} |"
        for source in pool.samples["source"].unique()
    )
    losses = "\n".join(
        f"| {name.removeprefix('loss_').replace('_', ' to ')} | {last[name]:.4f} |"
        for name in curve.columns
        if name.startswith("loss_")
    )
    count = sum(p.numel() for p in task.ema.module.parameters())
    crops = ", ".join(f"{size} of {side} x {side}" for side, size in pool.crops)
    return f"""# Denoiser trained on {pool.name}

Unconditional DDPM on images without labels: predicts the noise, 1000 linear steps (beta 1e-4 to
0.02), a diffusers `UNet2DModel` on images in [-1, 1], {task.patch} x {task.patch} pixels folded
into channels. {count:,} parameters, averaged over training, in half precision.

| source | images learnt from | held out |
|---|---|---|
{data}

`images.csv` lists every image by the SHA-256 of its pixels (`HxW` as text, then 8-bit RGB in row
order), so that anybody can check what was seen. The terms of these images hold for what is made
from them.

{int(last["step"]):,} steps in {last["hours"]:.2f} hours, started from `{task.denoiser}`; batches of
{crops} pixels cut from images whose shorter side is {pool.sides[0]} to {pool.sides[1]} pixels.

| timesteps | held-out loss |
|---|---|
{losses}
| mean | {last["loss"]:.4f} |

![Held-out loss](curve.png)

![Samples](samples.png)
"""
