"""A run's task and data from its checkpoint alone, outside the command line."""

from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lcpdn_pl.callbacks import CONFIG
from lcpdn_pl.data import DataModule
from lcpdn_pl.errors import CheckpointError
from lcpdn_pl.tasks import Task
from lcpdn_pl.trust import refuse_foreign_code


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


def restore(checkpoint: Path) -> tuple[Task, DataModule]:
    """Restores what a checkpoint's run trained, in eval mode, and the data it was trained on.

    Args:
        checkpoint: A checkpoint in its run folder, beside the ``config.yaml`` of ``lcpdn fit``.

    Returns:
        The task with the checkpoint's weights, and the data module, which is not set up yet.

    Raises:
        CheckpointError: If one of the two files is missing or unreadable, or they do not belong
            together.
        ConfigError: If the configuration names code of other packages.
    """
    file = run_config(checkpoint)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    parser.add_subclass_arguments(DataModule, "data")
    try:
        stored = yaml.safe_load(file.read_text())
        config = parser.parse_object({part: stored[part] for part in ("model", "data")})
    except (ArgumentError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{file}: expected the configuration of a run of this version of lcpdn_pl, found one "
            f"that cannot be used ({error}). Use the version that trained it, or train it anew."
        ) from error
    built = parser.instantiate_classes(config)
    task: Task = built.model
    data: DataModule = built.data
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises what torn bytes lead it to
        raise CheckpointError(
            f"{checkpoint}: expected a checkpoint of lcpdn fit, found a file that cannot be read "
            f"({error}). Copy the run folder again, or take its other checkpoint."
        ) from error
    task.on_load_checkpoint(content)
    task.load_state_dict(content["state_dict"])
    return task.eval(), data
