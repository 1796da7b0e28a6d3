"""What every run leaves behind: its configuration, and a summary on the terminal."""

from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from lcpdn_pl.files import write_whole
from lcpdn_pl.tasks.base import Task

CONFIG = "config.yaml"


class SaveConfig(SaveConfigCallback):
    """Writes the configuration of a fit into its run folder, from where a test restores it."""

    def save_config(
        self, trainer: lightning.Trainer, _pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Called by Lightning at the start of a run, on the first process."""
        if stage == "fit":
            content = self.parser.dump(self.config, skip_none=False)
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
