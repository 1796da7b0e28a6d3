"""A run's task and data from its checkpoint alone, outside the command line."""

from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser

from lcpdn_pl.callbacks import CONFIG
from lcpdn_pl.data import DataModule
from lcpdn_pl.errors import CheckpointError
from lcpdn_pl.tasks import Task


def run_config(checkpoint: Path) -> Path:
    """The configuration beside a checkpoint.

    Raises:
        CheckpointError: If one of the two files is missing.
    """
    config = checkpoint.with_name(CONFIG)
    for file in (checkpoint, config):
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist; expected a checkpoint in its run folder, beside the "
                f"{CONFIG} that lcpdn fit wrote. Move the whole run folder, not one file of it."
            )
    return config


def restore(checkpoint: Path) -> tuple[Task, DataModule]:
    """Restores what a checkpoint's run trained, in eval mode, and the data it was trained on.

    Args:
        checkpoint: A checkpoint in its run folder, beside the ``config.yaml`` of ``lcpdn fit``.

    Returns:
        The task with the checkpoint's weights, and the data module, which is not set up yet.

    Raises:
        CheckpointError: If one of the two files is missing, or they do not belong together.
    """
    stored = yaml.safe_load(run_config(checkpoint).read_text())
    parser = ArgumentParser()
    parser.add_subclass_arguments(Task, "model")
    parser.add_subclass_arguments(DataModule, "data")
    config = parser.parse_object({part: stored[part] for part in ("model", "data")})
    built = parser.instantiate_classes(config)
    task: Task = built.model
    data: DataModule = built.data
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    task.on_load_checkpoint(content)
    task.load_state_dict(content["state_dict"])
    return task.eval(), data
