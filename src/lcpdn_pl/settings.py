"""Settings of a run: which of them the parser lets pass though nothing comes of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from lcpdn_pl.errors import CheckpointError, ConfigError

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

_OWN = "lcpdn_pl."
_NONE: Mapping[str, type] = {}

# Settings of the trainer of which Lightning takes zero, and then divides by it in a run, or leaves
# out without a word what a checkpoint is chosen by.
_COUNTS = (
    *("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches"),
    *("limit_train_batches", "limit_val_batches"),
)

_HALF_WEIGHTS = {"16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"}


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a configuration, such as ``data.init_args.protocol``, and their values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def refuse_nulls(config: Mapping[str, Any], sections: Mapping[str, type] = _NONE) -> None:
    """Refuses null where a class takes none.

    Args:
        config: Parsed settings by section, classes as ``class_path`` and ``init_args``. Of classes
            that are named so, those of this package are looked at.
        sections: Classes of the sections that name none, such as the trainer's.

    Raises:
        ConfigError: Lists the settings.
    """
    wrong = [
        name
        for section, settings in config.items()
        if isinstance(settings, Mapping)
        for name in _nulls(settings, section, sections.get(section))
    ]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} must not be null. Give a value, or leave the setting out for its "
            "default."
        )


def _nulls(settings: Mapping[str, Any], prefix: str, kind: Any = None) -> Iterator[str]:
    path = settings.get("class_path")
    if isinstance(path, str):
        settings = settings.get("init_args") or {}
        kind = locate(path) if path.startswith(_OWN) else None
    hints = {} if kind is None else get_type_hints(kind.__init__)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _nulls(value, f"{prefix}.{name}")
        elif value is None and name in hints and NoneType not in get_args(hints[name]):
            yield f"{prefix}.{name}"


def refuse_trainer(trainer: Namespace) -> None:
    """Refuses what Lightning would take and a run would fail by, or not be what it says.

    Args:
        trainer: The settings of the trainer.

    Raises:
        ConfigError: If a count is not above zero, if batches are to be overfit, or if weights are
            to be of half precision.
    """
    for name in _COUNTS:
        value = trainer[name]
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"trainer.{name} is {value}: expected more than 0.")
    if trainer.overfit_batches:
        raise ConfigError(
            f"trainer.overfit_batches is {trainer.overfit_batches}: images would come in no order "
            "that a run can go on with. Take trainer.limit_train_batches instead."
        )
    if str(trainer.precision) in _HALF_WEIGHTS:
        raise ConfigError(
            f"trainer.precision is {trainer.precision}: expected full weights, by which a "
            "checkpoint tells that frozen backbones are the same. Take 16-mixed or bf16-mixed."
        )


def refuse_some_images(trainer: Namespace, subcommand: str) -> None:
    """Refuses to test or predict some images, which would stand where all are looked for.

    Args:
        trainer: The settings of the trainer.
        subcommand: ``test`` or ``predict``.

    Raises:
        ConfigError: Names the setting that limits them.
    """
    for name in (f"limit_{subcommand}_batches", "fast_dev_run"):
        value = trainer[name]
        # As Lightning has it, 1 is one batch and 1.0 all of them.
        if not (value is None or value is False or (isinstance(value, float) and value == 1)):
            raise ConfigError(
                f"trainer.{name} is {value}: lcpdn {subcommand} takes all images. Leave it out, "
                "or give a manifest of some: --data Manifest --data.root FILE."
            )


def refuse_other_folders(run: Path, stored: Namespace, given: Namespace) -> None:
    """Refuses another folder for what comes of a checkpoint than that of its run.

    Args:
        run: The folder.
        stored: The run's configuration.
        given: The same under the arguments.

    Raises:
        CheckpointError: Names the setting.
    """
    for name in ("run_folder", "trainer.default_root_dir"):
        if given[name] not in (None, stored[name], str(run)):
            raise CheckpointError(
                f"{name} is {given[name]}, but what comes of a checkpoint goes into its run's "
                f"folder, {run}. Leave it out."
            )


def refuse_contradictions(stored: Namespace, given: Namespace, trains: bool) -> None:
    """Compares an explicit configuration with that of the checkpoint's run.

    Args:
        stored: The run's configuration.
        given: The same under the arguments.
        trains: Whether the run goes on, which its seed belongs to; of a test it is free.

    Raises:
        CheckpointError: Lists every setting that differs and must not.
    """
    other_data = not trains and stored.data.class_path != given.data.class_path
    wrong = []
    if trains and stored.seed_everything != given.seed_everything:
        wrong.append(
            f"  seed_everything: the checkpoint has {stored.seed_everything!r}, "
            f"the arguments say {given.seed_everything!r}"
        )
    for section, free in (("model", FREE_MODEL), ("data", FREE_DATA)):
        before, after = (dict(leaves(part[section].as_dict())) for part in (stored, given))
        for key in sorted(before.keys() | after.keys()):
            name = key.rpartition(".")[2]
            if name in free or before.get(key) == after.get(key):
                continue
            # Other data may be tested on purpose, but at the size that was trained for.
            if section == "data" and other_data and name != "image_size":
                continue
            wrong.append(
                f"  {section}.{key}: the checkpoint has {before.get(key)!r}, "
                f"the arguments say {after.get(key)!r}"
            )
    if wrong:
        raise CheckpointError(
            "The arguments contradict the checkpoint:\n" + "\n".join(wrong) + "\nLeave them out "
            "(the checkpoint's run folder restores model and data), or train another run with them."
        )
