"""Checkpoint files: written whole or not at all, and found in their run folder."""

from io import BytesIO
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from lcpdn_pl.backbones.weights import reason
from lcpdn_pl.callbacks import CONFIG
from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.files import write_whole
from lcpdn_pl.trust import refuse_foreign_code

BEST, LAST = "best.ckpt", "last.ckpt"

# What may differ from the run that made a checkpoint: where data lie, how they are loaded, how
# much memory and time a pass takes, what a test does with them. All else of the model and of its
# data must not.
FREE_MODEL = {
    "step_batch",
    "gradient_checkpointing",
    "compile",
    "feature_cache",
    "feature_cache_limit",
    "test_turns",
}
FREE_DATA = {
    "root",
    "batch_size",
    "num_workers",
    "memory",
    "test_reports",
    "test_corruption",
    "test_strength",
}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, whatever happens meanwhile.

    Lightning moves it there from the temporary folder. That may be on another disk, where to move
    is to copy: a run that is killed then leaves half a file, and the whole one before is gone.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ARG002
    ) -> None:
        """Called by Lightning."""
        content = BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Called by Lightning, see :func:`read_checkpoint`."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Called by Lightning with a path that the checkpoint it resumed from has told it.

        One that came from elsewhere may have told anything, a folder of the user's for example.
        """
        file = Path(path)
        if file.suffix == ".ckpt" and ".." not in file.parts and file.is_file():
            super().remove_checkpoint(path)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, of a run that will write one, in a folder that may have been moved or copied.

    Lightning forgets which checkpoint was the best one of a run whose folder has another name, and
    writes the next one over it.
    """

    def on_train_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Called by Lightning once the length of an epoch is known.

        Raises:
            ConfigError: If the run would end before its first validation, and so without a
                checkpoint.
        """
        every, epoch = trainer.check_val_every_n_epoch, trainer.num_training_batches
        first = float("inf") if trainer.val_check_batch is None else trainer.val_check_batch
        if every is not None:
            first = (every - 1) * epoch + min(first, epoch)
        first /= trainer.accumulate_grad_batches
        steps = trainer.estimated_stepping_batches
        if steps < first and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigError(
                f"The run has {steps:g} steps, but validation, which writes the checkpoints, first "
                f"comes after {first:g}. Lower trainer.val_check_interval or "
                "trainer.check_val_every_n_epoch, or train longer."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning where a run goes on; all files are those in the folder of now."""
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved: dict[str, Any] = {name: self._here(state_dict[name]) for name in paths}
        moved["best_k_models"] = {
            self._here(path): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath), Path(path).name)) if path else path


def run_config(checkpoint: Path) -> Path:
    """The configuration beside a checkpoint.

    Raises:
        CheckpointError: If one of the two files is missing.
        ConfigError: If it names code of other packages, see :mod:`lcpdn_pl.trust`.
    """
    config = checkpoint.with_name(CONFIG)
    for file in (checkpoint, config):
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist; expected a checkpoint in its run folder, beside the "
                f"{CONFIG} that lcpdn fit wrote. Move the whole run folder, not one file of it."
            )
    refuse_foreign_code(config)
    return config


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; code in it is refused, not run.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(content["global_step"]), content["state_dict"].keys()
    except Exception as error:  # the unpickler raises what torn bytes lead it to
        raise CheckpointError(
            f"{path}: expected a checkpoint of lcpdn fit, found a file that cannot be read "
            f"({reason(error)}). Copy the run folder again, or take its other checkpoint."
        ) from error
    return content


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint from which a run goes on: of those that are whole, the one of most steps.

    Args:
        run: The run's folder.

    Returns:
        ``None`` if the run ended before it wrote one.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    found = [path for path in (run / LAST, run / BEST) if path.is_file()]
    steps: dict[Path, int] = {}
    for path in found:
        try:
            steps[path] = read_checkpoint(path)["global_step"]
        except CheckpointError as error:
            torn = error
    if found and not steps:
        raise torn
    return max(steps, key=lambda path: steps[path], default=None)
