"""A run's task and data from its checkpoint alone, outside the command line."""

from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from lcpdn_pl.checkpoints import read_checkpoint, run_config
from lcpdn_pl.data import DataModule
from lcpdn_pl.errors import CheckpointError, LCPDNError
from lcpdn_pl.settings import refuse_nulls
from lcpdn_pl.tasks import Task


def restore(checkpoint: Path) -> tuple[Task, DataModule]:
    """Restores what a checkpoint's run trained, in eval mode, and the data it was trained on.

    Args:
        checkpoint: A checkpoint in its run folder, beside the ``config.yaml`` of ``lcpdn fit``.

    Returns:
        The task with the checkpoint's weights, and the data module, which is not set up yet.

    Raises:
        CheckpointError: If one of the two files is missing or unreadable, or they do not belong
            together.
        ConfigError: If the configuration names code of other packages, or has null where a class
            takes none.
    """
    file = run_config(checkpoint)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    parser.add_subclass_arguments(DataModule, "data")
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        config = parser.parse_object({part: dict(stored[part]) for part in ("model", "data")})
        refuse_nulls(config.as_dict())
        built = parser.instantiate_classes(config)
        task: Task = built.model
        data: DataModule = built.data
    except LCPDNError:
        raise
    except Exception as error:  # what is built raises what its settings lead it to
        raise CheckpointError(
            f"{file}: expected the configuration of a run of this version of lcpdn_pl, found one "
            f"that cannot be used ({error}). Use the version that trained it, or train it anew."
        ) from error
    content = read_checkpoint(checkpoint)
    try:
        task.on_load_checkpoint(content)
        task.load_state_dict(content["state_dict"])
    except LCPDNError:
        raise
    except Exception as error:  # as above
        raise CheckpointError(
            f"{checkpoint}: expected a checkpoint of the run that {file.name} beside it describes, "
            f"found one that does not fit it ({error}). Copy the run folder again."
        ) from error
    return task.eval(), data
