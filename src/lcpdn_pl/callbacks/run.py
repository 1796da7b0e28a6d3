"""What every run leaves behind: its configuration, and a summary on the terminal."""

import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from lcpdn_pl.data import Manifest
from lcpdn_pl.files import write_whole
from lcpdn_pl.settings import leaves
from lcpdn_pl.tasks.base import Task

CONFIG = "config.yaml"


class SaveConfig(SaveConfigCallback):
    """Writes the configuration of a fit into its run folder, from where a test restores it."""

    def save_config(
        self, trainer: lightning.Trainer, _pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Called by Lightning at the start of a run, on the first process."""
        if stage == "fit":
            config = self.config.clone()
            config.ckpt_path = None  # a run that starts from this file starts anew
            content = self.parser.dump(config, skip_none=False)
            write_whole(Path(trainer.default_root_dir, CONFIG), content)


class RunSummary(Callback):
    """Prints what is about to run: data, backbones, trainable and frozen parameters."""

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Called by Lightning once data and network stand."""
        if not trainer.is_global_zero or not isinstance(pl_module, Task):
            return
        table = Table(
            title=f"lcpdn {TrainerFn(stage).value}", show_header=False, title_justify="left"
        )
        data = trainer.datamodule  # type: ignore[attr-defined]
        table.add_row("data", data.describe())
        for name, description in pl_module.describe().items():
            table.add_row(name, description)
        table.add_row("run folder", str(trainer.default_root_dir))
        Console().print(table)


class StepProgressBar(RichProgressBar):
    """Lightning's progress bar, which tells the steps of a run that is of so many steps.

    Lightning would have it end with epoch -2. The bar itself is of the epoch in either case.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_steps
        if self.trainer.max_epochs != -1 or most == -1:
            return super()._get_train_description(current_epoch)
        return f"Step {self.trainer.global_step:{len(str(most))}}/{most}"

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Called by Lightning."""
        if self.progress is not None and self.train_progress_bar_id is not None:
            step = self._get_train_description(trainer.current_epoch)
            self.progress.update(self.train_progress_bar_id, description=step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class SaveOnInterrupt(Callback):
    """Ctrl-C ends training after the step that is under way, and a checkpoint keeps that step.

    A validation that is due after that step is done first, and its own checkpoint is kept: a run
    that goes on would not make up for it. Where no step is left the run is whole when it ends, but
    ends as stopped. At the second Ctrl-C it ends at once. Of several processes each would stop at a
    step of its own, so that they end at once and the last checkpoint is that of the last
    validation.

    Args:
        checkpoint: The file to write.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        # What is kept of a step, as long as a validation of it may follow.
        self._step = checkpoint.with_name(f"{checkpoint.name}.stopped")
        self._asked = False
        self._kept = False
        self._before: Any = None

    def on_train_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Listens, unless who started the program had it ignore Ctrl-C."""
        main = threading.current_thread() is threading.main_thread()
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if trainer.world_size == 1 and main and not ignored:
            self._step.unlink(missing_ok=True)  # of a run that was killed meanwhile
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, _number: int, _frame: Any) -> None:
        self._asked = True
        self._hush()
        Console(stderr=True, soft_wrap=True).print(
            "Stopping after this step, and its validation if it has one; Ctrl-C again stops at "
            "once."
        )

    def _hush(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Keeps the step."""
        if self._asked:
            trainer.save_checkpoint(self._step)
            self._kept = True

    def on_validation_start(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Drops the step: the validation's checkpoint keeps it, or it is done again."""
        if self._asked:
            self._step.unlink(missing_ok=True)

    def on_validation_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Has the run end where it was asked to meanwhile, too."""
        self._kept = self._asked

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Ends before the next step.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed, for Lightning to end the run.
        """
        if self._kept:
            raise KeyboardInterrupt

    def on_train_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Listens no more."""
        self._hush()

    def on_fit_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
    ) -> None:
        """Ends as stopped where no step came after Ctrl-C, once all that a run leaves is written.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed, for Lightning to end the run.
        """
        if self._asked:
            self._step.unlink(missing_ok=True)  # as no run keeps steps after its last validation
            raise KeyboardInterrupt

    def on_exception(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Listens no more; the step that was kept becomes the last checkpoint."""
        self._hush()
        if self._kept and self._step.exists():
            self._step.replace(self.checkpoint)


class EndTogether(Callback):
    """Ends the other processes of a run when the first one fails, which they would wait for."""

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Kills them: what waits for another heeds nothing less, and only the first one writes."""
        launcher = trainer.strategy.launcher
        if trainer.is_global_zero and launcher is not None:
            launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has SIGTERM alone


def show_hparams(trainer: lightning.Trainer) -> None:
    """Shows a tested run in TensorBoard's HParams tab: its settings beside its test figures."""
    path = Path(trainer.default_root_dir, CONFIG)
    if not isinstance(trainer.logger, TensorBoardLogger) or not path.is_file():
        return
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    figures = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
    trainer.logger.log_hyperparams(_shown(config), figures, step=trainer.global_step)


def is_own_data(trainer: lightning.Trainer) -> bool:
    """Whether the data is that of the run, where its folder says so: same module, same place."""
    path = Path(trainer.default_root_dir, CONFIG)
    if not path.is_file():
        return True
    config = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
    data = trainer.datamodule  # type: ignore[attr-defined]
    return str(config["class_path"]).rpartition(".")[2] == type(data).__name__ and (
        not isinstance(data, Manifest) or Path(config["init_args"]["root"]) == data.root
    )


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells runs apart, under short names such as ``model.network.ltfr``."""
    shown = {}
    for key, value in leaves(config):
        if key.startswith(("model.", "data.")) or key in ("seed_everything", "trainer.max_epochs"):
            name = key.replace(".init_args", "").removesuffix(".class_path")
            if key.endswith(".class_path"):
                value = str(value).rpartition(".")[2]
            shown[name] = value
    return shown
