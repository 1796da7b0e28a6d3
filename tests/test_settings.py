"""Settings that the parser lets pass; ``test_cli`` has them refused on the command line."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.settings import (
    leaves,
    refuse_contradictions,
    refuse_nulls,
    refuse_other_folders,
    refuse_some_images,
    refuse_trainer,
)


def parsed(**given: Any) -> Namespace:
    """Settings as the parser gives them."""
    return Namespace(**given)  # type: ignore[no-untyped-call]


def config(seed: int = 0, folder: str | None = None, lr: float = 0.1, **data: Any) -> Namespace:
    """The configuration of a run."""
    stored = {"class_path": "MoNuSeg", "image_size": 64, "root": "a", "turns": 2}
    return parsed(
        seed_everything=seed,
        run_folder=folder,
        trainer=parsed(default_root_dir="runs"),
        model=parsed(class_path="Task", init_args=parsed(lr=lr, compile=False)),
        data=parsed(**stored | data),
    )


def trainer(**given: Any) -> Namespace:
    """Settings of the trainer, as they are unless they are given."""
    counts = ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")
    limits = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
    others = {"limit_predict_batches": 1.0, "fast_dev_run": False, "overfit_batches": 0.0}
    settings = dict.fromkeys(counts, 1) | dict.fromkeys([*limits, "precision"]) | others
    return parsed(**settings | given)


def test_settings_by_their_names() -> None:
    assert dict(leaves({"a": {"b": 1, "c": {"d": [2]}}, "e": None})) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }


def test_each_one_is_named() -> None:
    widths = {"class_path": "lcpdn_pl.models.UNet", "init_args": {"widths": None, "dropout": 0.1}}
    task = {
        "class_path": "lcpdn_pl.tasks.SegmentationTask",
        "init_args": {"network": widths, "empty_score": None, "lr_scheduler": None},
    }
    data = {"class_path": "lcpdn_pl.data.MoNuSeg", "init_args": {"batch_size": None, "root": None}}
    trainer = {"max_time": None, "devices": None}
    with pytest.raises(ConfigError) as caught:
        refuse_nulls({"model": task, "data": data, "trainer": trainer}, {"trainer": Trainer})
    named = "model.network.widths, model.empty_score, data.batch_size, trainer.devices must not be"
    assert str(caught.value).startswith(named)


def test_what_takes_null_or_is_of_others_passes() -> None:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": None, "foreach": None}}
    data = {"class_path": "lcpdn_pl.data.MoNuSeg"}
    refuse_nulls({"optimizer": adam, "data": data, "trainer": {"devices": None}, "seed": None})


@pytest.mark.parametrize(
    "given",
    [
        {"val_check_interval": 0},
        {"check_val_every_n_epoch": -1},
        {"accumulate_grad_batches": 0},
        {"limit_train_batches": 0.0},
        {"limit_val_batches": 0},
        {"overfit_batches": 0.5},
        {"precision": "bf16-true"},
    ],
)
def test_settings_of_the_trainer_that_cannot_be(given: dict[str, Any]) -> None:
    refuse_trainer(trainer())
    ((name, value),) = given.items()
    with pytest.raises(ConfigError, match=rf"^trainer.{name} is {value}: "):
        refuse_trainer(trainer(**given))


@pytest.mark.parametrize(("subcommand", "other"), [("test", "predict"), ("predict", "test")])
@pytest.mark.parametrize("limit", [1, 0, 0.5, 7])
def test_limits_of_images(subcommand: str, other: str, limit: float) -> None:
    given = trainer(**{f"limit_{subcommand}_batches": limit})
    refuse_some_images(given, other)
    with pytest.raises(ConfigError, match=f"trainer.limit_{subcommand}_batches is {limit}: "):
        refuse_some_images(given, subcommand)
    with pytest.raises(ConfigError, match=f"fast_dev_run is True: lcpdn {subcommand} takes all"):
        refuse_some_images(trainer(fast_dev_run=True), subcommand)
    refuse_some_images(trainer(**{f"limit_{subcommand}_batches": 1.0}), subcommand)


def test_what_comes_of_a_checkpoint_lies_in_its_run() -> None:
    run = Path("runs/x")
    refuse_other_folders(run, config(), config(folder="runs/x"))
    with pytest.raises(CheckpointError, match=r"^run_folder is runs/y, but .* its run's folder, "):
        refuse_other_folders(run, config(), config(folder="runs/y"))


def test_contradictions_are_listed() -> None:
    refuse_contradictions(config(), config(root="b", batch_size=3), trains=True)
    with pytest.raises(CheckpointError) as caught:
        refuse_contradictions(config(), config(seed=1, lr=0.2, image_size=32), trains=True)
    assert str(caught.value).splitlines()[1:4] == [
        "  seed_everything: the checkpoint has 0, the arguments say 1",
        "  model.init_args.lr: the checkpoint has 0.1, the arguments say 0.2",
        "  data.image_size: the checkpoint has 64, the arguments say 32",
    ]


def test_of_other_data_the_size_alone_must_be_the_same() -> None:
    other: dict[str, Any] = {"class_path": "QaTaCOV19", "turns": 4}
    refuse_contradictions(config(), config(seed=1, **other), trains=False)
    with pytest.raises(CheckpointError, match=r"data.image_size"):
        refuse_contradictions(config(), config(image_size=32, **other), trains=False)
    with pytest.raises(CheckpointError, match=r"data.class_path.*\n.*data.turns"):
        refuse_contradictions(config(), config(**other), trains=True)
