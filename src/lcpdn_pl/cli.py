"""The command line ``lcpdn``: Lightning's CLI with run folders and strict checkpoints."""

import logging
import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from datetime import datetime
from inspect import unwrap
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, auto_cli
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from lcpdn_pl import __version__
from lcpdn_pl.callbacks import (
    CONFIG,
    EndTogether,
    OverlaySheets,
    PredictionWriter,
    PretrainingReport,
    RunSummary,
    SaveConfig,
    SaveOnInterrupt,
    StepProgressBar,
    TestReport,
)
from lcpdn_pl.checkpoints import (
    BEST,
    LAST,
    RunCheckpoint,
    WholeCheckpointIO,
    newest_checkpoint,
    run_config,
)
from lcpdn_pl.commands import COMMANDS, CommandParser
from lcpdn_pl.data import DataModule
from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.explain import explain
from lcpdn_pl.settings import (
    refuse_contradictions,
    refuse_nulls,
    refuse_other_folders,
    refuse_some_images,
    refuse_trainer,
)
from lcpdn_pl.tasks import SegmentationTask, Task
from lcpdn_pl.trust import ALLOW, refuse_foreign_code, restrict_imports

_UNSAID = ("litlogger", "Detected KeyboardInterrupt")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of any program that is ended by it."""

# Callbacks of every run, by their section in the configuration.
_CALLBACKS: dict[str, type[Callback]] = {
    "overlay_sheets": OverlaySheets,
    "test_report": TestReport,
    "prediction_writer": PredictionWriter,
    "pretraining_report": PretrainingReport,
}
_SECTIONS: dict[str, type] = {"trainer": Trainer, **_CALLBACKS}

# typing gives back the union of these members that was asked for first, and Lightning asks for one
# that begins with float elsewhere: a limit of 1 batch would be read as 1.0, all of them.
for _part in ("train", "val", "test", "predict"):
    unwrap(Trainer.__init__).__annotations__[f"limit_{_part}_batches"] = int | float | None

_FOLDER = "LCPDN_RUN_FOLDER"

# Files that are read as settings: by the option that names them, or by their own name.
_FROM_FILE = {"-c", "--config", "--model", "--data", "--trainer"}
_SUFFIXES = {".yaml", ".yml", ".json"}

# Remarks of libraries about things that are so on purpose, or that only their authors can mend.
_REMARKS = (
    r"Found \d+ module\(s\) in eval mode",
    r"Checkpoint directory .* exists and is not empty",
    r"The '\w+' does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"You're using the WeightAveraging callback, but loading a checkpoint outside",
)


class LCPDNCLI(LightningCLI):
    """Lightning's CLI, in which a run lives in one folder and a checkpoint knows its run.

    - ``fit`` starts ``<trainer.default_root_dir, or runs>/<dataset>/<method>/<stamp>``, or the
      folder ``--run_folder``, or goes on in the run of ``--ckpt_path``: from that checkpoint or,
      where it is a run folder, from its newest whole one.
    - ``validate``, ``test`` and ``predict`` refuse to work without ``--ckpt_path``, of a run folder
      its best one; the configuration beside it restores model and data.
    - An argument that contradicts that configuration is an error.
    - ``trainer.precision: null`` is mixed precision on a GPU and full precision on a CPU.
    - A run takes one device, unless ``trainer.devices`` says otherwise.
    """

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            Task,
            DataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "devices": 1,  # with more a step takes more images, and a run has fewer steps
                "precision": None,
                "enable_model_summary": False,  # RunSummary says more
                "use_distributed_sampler": False,  # data modules share out their images themselves
            },
            seed_everything_default=0,
            parser_kwargs={
                "prog": "lcpdn",
                "version": __version__,
                "epilog": f"further commands: {', '.join(COMMANDS)}; lcpdn COMMAND --help "
                "explains. --allow_code lets a configuration name classes of any package.",
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what a run leaves behind, each with a section of its own in the configuration."""
        parser.add_argument(
            "--run_folder",
            type=str | None,
            help="New folder of this run (default: null, runs/<dataset>/<method>/<stamp>).",
        )
        for section, kind in _CALLBACKS.items():
            parser.add_lightning_class_args(kind, section)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments on top of the configuration of the checkpoint's run."""
        self.run, checkpoint = _find_run(args)
        if self.run is None:
            self.config = parser.parse_args(args)
            self._refuse_unfound_checkpoint()
            refuse_nulls(self.config[self.config.subcommand].as_dict(), _SECTIONS)
            return
        subcommand, *rest = args
        run = [subcommand, "--config", str(self.run / CONFIG)]
        stored, self.config = parser.parse_args(run), parser.parse_args([*run, *rest])
        self.config[subcommand].ckpt_path = checkpoint and str(checkpoint)
        refuse_nulls(self.config[subcommand].as_dict(), _SECTIONS)
        refuse_other_folders(self.run, stored[subcommand], self.config[subcommand])
        refuse_contradictions(stored[subcommand], self.config[subcommand], subcommand == "fit")

    def _refuse_unfound_checkpoint(self) -> None:
        subcommand = self.config.subcommand
        given = self.config[subcommand].ckpt_path
        if subcommand != "fit" or given is not None:
            raise CheckpointError(
                f"lcpdn {subcommand} has the checkpoint {given}, whose run was not looked up: "
                "expected the subcommand as the first word and --ckpt_path among its arguments, "
                f"not in a configuration. Give lcpdn {subcommand} --ckpt_path FILE ..."
            )

    def _parse_ckpt_path(self) -> None:
        # Lightning would let a checkpoint change the configuration, and so name code to import.
        pass

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Creates the trainer on the run's folder.

        Raises:
            ConfigError: If a setting of the trainer cannot be, of those that Lightning lets pass.
        """
        config = self.config_init[self.subcommand].trainer
        refuse_trainer(config)
        folder = self.run or self._new_run(config)
        kwargs["default_root_dir"] = str(folder)
        if config.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                str(folder), name="", version="", default_hp_metric=False
            )
        if config.precision is None:
            kwargs["precision"] = _precision(config.accelerator)
        self.best = RunCheckpoint(
            folder,
            filename="best",
            monitor=self.model.monitor,
            mode=self.model.monitor_mode,
            enable_version_counter=False,
        )
        # Its own rule: the option save_last would write it only when the best one improves.
        last = RunCheckpoint(folder, filename="last", enable_version_counter=False)
        interrupt = SaveOnInterrupt(folder / LAST)
        callbacks, plugins = _listed(config.callbacks), _listed(config.plugins)
        config.callbacks = [RunSummary(), *callbacks, interrupt, EndTogether(), self.best, last]
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config.enable_progress_bar is not False and not own_bar:
            config.callbacks.append(StepProgressBar())
        config.plugins = [*plugins, WholeCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _new_run(self, config: Namespace) -> Path:
        """The run's folder; of several processes the first one chooses it for all it starts."""
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            os.environ[_FOLDER] = str(self._chosen_folder(config))
            return Path(os.environ[_FOLDER])
        given = self.config_init[self.subcommand].run_folder or os.environ.get(_FOLDER)
        if given is None:
            raise ConfigError(
                "Processes that were not started by lcpdn itself cannot agree on a new run folder: "
                "give --run_folder."
            )
        return Path(given)

    def _chosen_folder(self, config: Namespace) -> Path:
        if given := self.config_init[self.subcommand].run_folder:
            if (folder := Path(given)).joinpath(CONFIG).exists():
                raise ConfigError(
                    f"{folder} holds a run already. Give another run_folder, or go on with that "
                    f"run: --ckpt_path {folder}."
                )
            return folder
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")
        return Path(
            config.default_root_dir or "runs", self.datamodule.name, self.model.method, stamp
        )

    def _run(self, what: Callable[..., object], go_on: str, **kwargs: Any) -> None:
        """Runs a method of the trainer; where it was interrupted, says so in one line."""
        try:
            what(**kwargs)
        except SystemExit:
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            if self.trainer.is_global_zero:
                _complain(f"stopped. {go_on}".rstrip())
            raise SystemExit(INTERRUPTED) from None

    def fit(self, **kwargs: Any) -> None:
        """Runs ``Trainer.fit``; says how to go on where it was interrupted."""
        go_on = f"Go on with: lcpdn fit --ckpt_path {self.trainer.default_root_dir}"
        self._run(self.trainer.fit, go_on, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Runs ``Trainer.validate``."""
        self._run(self.trainer.validate, "", **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Runs ``Trainer.test``; the report prints the table."""
        self._refuse_pretraining()
        refuse_some_images(self.config[self.subcommand].trainer, "test")
        self._run(self.trainer.test, "Nothing was written.", **kwargs | {"verbose": False})

    def predict(self, **kwargs: Any) -> None:
        """Runs ``Trainer.predict``; masks are written one by one, not kept."""
        self._refuse_pretraining()
        refuse_some_images(self.config[self.subcommand].trainer, "predict")
        whole = "The masks that were written are whole."
        self._run(self.trainer.predict, whole, **kwargs | {"return_predictions": False})

    def _refuse_pretraining(self) -> None:
        if not isinstance(self.model, SegmentationTask):
            raise ConfigError(
                f"lcpdn {self.subcommand} needs a segmentation run, but the checkpoint is of "
                f"{type(self.model).__name__}. Its run folder's denoiser/ is what to use: "
                "lcpdn fit --model.network.denoiser FOLDER."
            )

    def after_fit(self) -> None:
        """Says where the best checkpoint is and how to test it."""
        if self.best.best_model_path and self.trainer.is_global_zero:
            path = Path(self.best.best_model_path)
            path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            console = Console(soft_wrap=True)
            console.print(f"Best checkpoint: {path}", markup=False)
            if isinstance(self.model, SegmentationTask):
                console.print(f"Test it with:    lcpdn test --ckpt_path {path}", markup=False)


def _find_run(args: Sequence[str]) -> tuple[Path | None, Path | None]:
    """The run folder that the arguments name, if the subcommand needs or allows one.

    Returns:
        The folder and its checkpoint, which is missing where a run ended before its first one.
    """
    scan = ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("subcommand", nargs="?")
    scan.add_argument("--ckpt_path")
    scan.add_argument("-h", "--help", "--print_config", nargs="?", const=True)
    known, _ = scan.parse_known_args(args)
    if known.subcommand not in LightningCLI.subcommands() or known.help:
        return None, None
    if known.ckpt_path in (None, "null"):
        if known.subcommand == "fit":
            return None, None
        raise CheckpointError(
            f"lcpdn {known.subcommand} needs a trained network: give --ckpt_path, for example "
            "runs/monuseg/lcpdn/STAMP/best.ckpt; lcpdn fit prints the path when it ends."
        )
    path = Path(known.ckpt_path)
    if known.subcommand == "fit" and path.joinpath(CONFIG).is_file():
        run_config(path / CONFIG)
        return path, newest_checkpoint(path)
    checkpoint = path / BEST if path.is_dir() else path
    run_config(checkpoint)
    return checkpoint.parent, checkpoint


def _listed(given: Any) -> list[Any]:
    """What may be given as a list, as one thing, or not at all."""
    return given if isinstance(given, list) else [] if given is None else [given]


def _precision(accelerator: Any) -> str:
    """Mixed on a GPU; full on a CPU, where half precision is many times slower."""
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return "16-mixed" if on_gpu else "32-true"


def _quieten() -> None:
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", remark)
    disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(part in record.getMessage() for part in _UNSAID)
    )


def _refuse_other_bytes(args: Sequence[str]) -> None:
    """Arguments and names of files end in tables and pages, which are UTF-8."""
    for argument in args:
        if argument != (shown := argument.encode(errors="replace").decode()):
            raise ConfigError(
                f"{shown}: expected UTF-8, found other bytes where ? stands. Rename the file, or "
                "write the text otherwise."
            )


def _run_command(name: str, *args: str) -> None:
    """Runs a plain command; its function's signature and docstring are its interface and help."""
    auto_cli(
        COMMANDS[name],
        args=list(args),
        prog=f"lcpdn {name}",
        as_positional=True,
        parser_class=CommandParser,
    )


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``lcpdn``.

    Args:
        args: Arguments without the program's name; ``None`` takes those of the process.

    Raises:
        SystemExit: With one message, if the user's data, weights or arguments are wrong, or 130 if
            the user stopped it.
    """
    _quieten()
    args = list(sys.argv[1:] if args is None else args)
    if "--allow_code" in args:
        args.remove("--allow_code")
        os.environ[ALLOW] = "1"
    try:
        _refuse_other_bytes(args)
        restrict_imports(args)
        for before, argument in zip(["", *args], args, strict=False):
            option, _, value = argument.partition("=")
            option, file = (option, Path(value)) if value else (before, Path(argument))
            # Not Path.is_file, which fails for inline settings that are too long for a name.
            there = os.path.isfile(file)  # noqa: PTH113
            if there and (option in _FROM_FILE or file.suffix in _SUFFIXES):
                refuse_foreign_code(file)
        if args and args[0] in COMMANDS:
            _run_command(*args)
        else:
            LCPDNCLI(args)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        _complain(message)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _complain("stopped.")
        raise SystemExit(INTERRUPTED) from None


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"lcpdn: {message}", markup=False, style="red")
