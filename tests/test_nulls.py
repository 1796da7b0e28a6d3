"""Null where a class takes none."""

import pytest
from lightning.pytorch import Trainer

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.nulls import refuse_nulls


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
