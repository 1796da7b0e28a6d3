"""Checkpoint files: written whole or not at all, and found in their run folder."""

from collections.abc import Callable
from glob import escape
from io import BytesIO
from pathlib import Path
from traceback import walk_tb
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.trainer.states import TrainerFn
from packaging.version import InvalidVersion, Version
from torch import Tensor

from lcpdn_pl.backbones.weights import reason
from lcpdn_pl.callbacks import CONFIG
from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.explain import explain
from lcpdn_pl.files import write_whole
from lcpdn_pl.tensors import read_tensors
from lcpdn_pl.trust import refuse_foreign_code

BEST, LAST = "best.ckpt", "last.ckpt"

_VERSION = "pytorch-lightning_version"
_PROGRESS = ("loops", "optimizer_states", "lr_schedulers")  # what a run that goes on needs
_AGAIN = "Copy the run folder again, or take its other checkpoint."


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
        """Called by Lightning; removes what a run has left that was killed while it wrote."""
        file, content = Path(path), BytesIO()
        torch.save(checkpoint, content)
        for left in file.parent.glob(f".{escape(file.name)}.*.partial"):
            left.unlink()
        write_whole(file, content.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Called by Lightning, see :func:`read_checkpoint`.

        Raises:
            CheckpointError: If it cannot be read, or does not say of which Lightning it is.
        """
        content = read_checkpoint(Path(path))
        if _VERSION not in content:
            raise CheckpointError(
                f"{path}: expected a checkpoint of lcpdn fit, found one without its {_VERSION}. "
                f"{_AGAIN}"
            )
        return content

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

    _restored = False

    def on_train_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Called by Lightning once the length of an epoch is known.

        Raises:
            CheckpointError: If a run goes on from a checkpoint that does not know its best one.
            ConfigError: If the run would end before its first validation, and so without a
                checkpoint.
        """
        if trainer.ckpt_path and not self._restored:
            raise CheckpointError(
                f"{trainer.ckpt_path}: expected the checkpoint of a run that goes on, found one "
                f"without the best score until then. {_AGAIN}"
            )
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

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
        checkpoint: dict[str, Any],
    ) -> None:
        """Called by Lightning before anything but the weights is restored.

        Raises:
            CheckpointError: If a run is to go on from what would begin it anew.
        """
        missing = [part for part in _PROGRESS if part not in checkpoint]
        if checkpoint.get("optimizer_states") == []:
            missing.append("the state of an optimizer")
        if trainer.state.fn == TrainerFn.FITTING and missing:
            raise CheckpointError(
                f"{trainer.ckpt_path}: expected the checkpoint of a run that goes on, found one "
                f"without {missing[0]}. {_AGAIN}"
            )

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Called by Lightning with whatever ends a run; notes where the checkpoint is the cause.

        Lightning takes it that a checkpoint is whole, and raises what a damaged one leads it to.
        """
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, Exception) and _restores(exception) and not explain(exception):
            # As the cause, so that Lightning still tears down; the command line tells it.
            exception.__cause__ = CheckpointError(
                f"{trainer.ckpt_path}: expected a checkpoint of the run that {CONFIG} beside it "
                f"describes, found one that cannot be taken up ({reason(exception)}). {_AGAIN}"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning where a run goes on; all files are those in the folder of now.

        Raises:
            TypeError: If scores are none.
        """
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved: dict[str, Any] = {name: self._here(state_dict[name]) for name in paths}
        moved["best_k_models"] = {
            self._here(path): score for path, score in state_dict["best_k_models"].items()
        }
        scores = state_dict["best_model_score"], state_dict["kth_value"]
        for score in (*scores, *moved["best_k_models"].values()):
            if score is not None and not (isinstance(score, Tensor) and score.numel() == 1):
                raise TypeError(f"{score!r} is no score of a checkpoint")
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath})
        self._restored = True

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
        CheckpointError: If it cannot be read, or what is in it is of other types.
    """
    try:
        content = read_tensors(path)
        _check(content)
    except Exception as error:  # the unpickler raises what torn bytes lead it to
        raise CheckpointError(
            f"{path}: expected a checkpoint of lcpdn fit, found a file that cannot be read "
            f"({reason(error)}). {_AGAIN}"
        ) from error
    checked: dict[str, Any] = content
    return checked


def _check(content: Any) -> None:
    """Looks at the parts of a checkpoint, without which Lightning would fail somewhere.

    Raises:
        TypeError: Names the part and what it should be.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it holds no parts by name, but {type(content).__name__}")
    if missing := [part for part in ("global_step", "state_dict") if part not in content]:
        raise TypeError(f"it has no {missing[0]}")
    for part, (is_right, kind) in _PARTS.items():
        if part in content and not is_right(content[part]):
            raise TypeError(f"its {part} should be {kind}")


def _is_count(part: Any) -> bool:
    return isinstance(part, int) and part >= 0


def _are_counts(part: Any) -> bool:
    """Whether all of a tree are numbers, truth values or nothing, as Lightning's progress is."""
    if isinstance(part, dict):
        return all(map(_are_counts, part.values()))
    if isinstance(part, list):
        return all(isinstance(one, dict) and _are_counts(one) for one in part)
    return part is None or isinstance(part, int | float)


def _are_loops(part: Any) -> bool:
    # Of loaders Lightning stores what they say themselves, and of ours both counts.
    return _are_states(part) and _are_counts(part) and "fit_loop" in part


def _are_states(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(state, dict) for state in part.values())


def _are_listed(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(state, dict) for state in part)


def _are_weights(part: Any) -> bool:
    return isinstance(part, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) and weight.layout == torch.strided
        for name, weight in part.items()
    )


def _is_version(part: Any) -> bool:
    try:
        Version(part)
    except (InvalidVersion, TypeError):
        return False
    return True


_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "global_step": (_is_count, "a number of steps"),
    "epoch": (_is_count, "a number of epochs"),
    "state_dict": (_are_weights, "dense tensors by their names"),
    "current_model_state": (_are_weights, "dense tensors by their names"),
    "callbacks": (_are_states, "states by the names of callbacks"),
    "loops": (_are_loops, "counts of the loops"),
    "optimizer_states": (_are_listed, "a list of states"),
    "lr_schedulers": (_are_listed, "a list of states"),
    _VERSION: (_is_version, "a version such as 2.6.0"),
}
"""Parts of a checkpoint that lcpdn_pl or Lightning relies on: what tells a right one, and its kind.

A checkpoint of weights alone has few of them."""


def _restores(error: Exception) -> bool:
    """Whether an error was raised while Lightning put a checkpoint's content in its places."""
    place = checkpoint_connector.__name__
    return any(
        frame.f_globals.get("__name__") == place for frame, _ in walk_tb(error.__traceback__)
    )


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
