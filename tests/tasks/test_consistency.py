"""Training on images with and without masks: the loss written out, the ramp, what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lcpdn_pl.data import MoNuSeg
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.losses import DiceBCELoss
from lcpdn_pl.models import MGCC
from lcpdn_pl.tasks import ConsistencyTask, consistency
from lcpdn_pl.tasks.consistency import ramp
from tests.conftest import TreeMaker, quiet_trainer, write_images

TINY: dict[str, Any] = {"width": 4, "levels": 3, "depth": 1, "kernel": 3}


def tiny_task(**options: Any) -> ConsistencyTask:
    torch.manual_seed(0)
    return ConsistencyTask(MGCC(**TINY), **options)


def tiny_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1,
        "mask": torch.randint(0, 2, (2, 8, 8), generator=generator),
        "text": ["", ""],
        "name": ["a", "b"],
        "unlabelled": torch.rand(3, 3, 8, 8, generator=generator) * 2 - 1,
    }


def test_terms_as_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = DiceBCELoss(1.0, 0.5, balanced=False, squared=False)
    task, batch = tiny_task(loss=loss), tiny_batch()
    monkeypatch.setattr(task, "_progress", lambda: 0.5)
    torch.manual_seed(1)
    logits, terms = task.training_terms(batch)
    torch.manual_seed(1)
    both = task.network.branches(torch.cat([batch["image"], batch["unlabelled"]]))
    assert len(both) == 4
    assert torch.equal(logits, both[0][:2])
    supervised = sum(loss(branch[:2], batch["mask"])["loss"].item() for branch in both) / 4
    main, *auxiliary = (torch.sigmoid(branch[2:, 1] - branch[2:, 0]) for branch in both)
    differences = [((main - other) ** 2).mean().item() for other in auxiliary]
    assert min(differences) > 1e-5
    wanted = 7 * math.exp(-5 / 4) * sum(differences) / 3
    assert terms["consistency"].item() == pytest.approx(wanted, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(supervised + wanted, rel=1e-5)
    bce = sum(loss(branch[:2], batch["mask"])["bce"].item() for branch in both) / 4
    assert terms["bce"].item() == pytest.approx(bce, rel=1e-5)
    assert set(terms) == {"loss", "bce", "dice_loss", "consistency"}


def test_images_without_mask_teach_all_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = tiny_task(), tiny_batch()
    monkeypatch.setattr(task, "_progress", lambda: 1.0)
    _, terms = task.training_terms(batch)
    terms["consistency"].backward()
    for decoder in (task.network.decoder, *task.network.auxiliary):
        gradient = decoder.classify.weight.grad
        assert isinstance(gradient, Tensor)
        assert gradient.abs().max() > 0


def test_ramp() -> None:
    found = [ramp(progress) for progress in (0, 0.25, 0.5, 1, 3)]
    wanted = [math.exp(-5), math.exp(-5 * 0.5625), math.exp(-5 * 0.25), 1, 1]
    assert found == pytest.approx(wanted)


def test_ramp_follows_the_steps_of_the_run(
    make_tree: TreeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_images(tmp_path / "pool", 3)
    root = str(make_tree(tmp_path / "tree", counts=(4, 2, 1)))
    data = MoNuSeg(root, "full", image_size=16, batch_size=2, unlabelled=str(pool))
    seen: list[float] = []

    def watched(progress: float) -> float:
        seen.append(progress)
        return ramp(progress)

    monkeypatch.setattr(consistency, "ramp", watched)
    task = tiny_task(ramp_share=0.5)
    trainer = quiet_trainer(tmp_path, max_epochs=4)
    trainer.fit(task, data)
    # 8 steps in all, the weight is whole after 4.
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert {"train/consistency", "train/dice", "val/dice"} <= trainer.callback_metrics.keys()


def test_a_pool_is_needed_unless_nothing_is_to_agree() -> None:
    batch = tiny_batch()
    del batch["unlabelled"]
    with pytest.raises(ConfigError, match=r"expected a pool.*Set data\.unlabelled to rest"):
        tiny_task().training_terms(batch)
    task = tiny_task(consistency=0.0)
    torch.manual_seed(1)
    logits, terms = task.training_terms(batch)
    torch.manual_seed(1)
    branches = task.network.branches(batch["image"])
    assert torch.equal(logits, branches[0])
    wanted = sum(task.loss(branch, batch["mask"])["loss"].item() for branch in branches) / 4
    assert terms["loss"].item() == pytest.approx(wanted, rel=1e-5)
    assert set(terms) == {"loss", "bce", "dice_loss"}


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"consistency is -1: expected a weight of 0 or more\."):
        tiny_task(consistency=-1)
    with pytest.raises(ConfigError, match="ramp_share is 0: expected a share of the run above 0"):
        tiny_task(ramp_share=0)
