"""Runs that are killed go on, and end as if they had not been."""

import multiprocessing
import os
import random
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils._pytree import tree_flatten

from lcpdn_pl.cli import main
from tests.conftest import interruptible

KILLS = int(os.environ.get("LCPDN_KILLS", "2"))
"""How often a run is killed; ``make reliability`` kills it 20 times."""

WEIGHTS = ("state_dict", "current_model_state")
"""Of a checkpoint: the averaged weights, and those that are trained."""

# Dropout draws at every step, the averaged weights and the validation within an epoch are what
# LCPDN is trained with.
RUN = [
    *("--model=SegmentationTask", "--model.network=UNet", "--model.network.widths=[4,8]"),
    *("--model.network.dropout=0.5", "--model.optimizer=Adam", "--model.optimizer.lr=1e-2"),
    *("--model.lr_scheduler=ExponentialLR", "--model.lr_scheduler.gamma=0.7"),
    *("--data=Phantom", "--data.counts=[7,2,3]", "--data.image_size=32"),
    *("--trainer.val_check_interval=3", "--trainer.log_every_n_steps=1"),
    *("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"),
]


def run_in_child(*args: str, torn_write: int | None = None) -> Any:
    """Starts ``lcpdn`` in a process of its own, whose imports are done already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lcpdn_pl.cli"])
    process = context.Process(target=killed_in_writing, args=(list(args), torn_write))
    process.start()
    return process


def killed_in_writing(args: list[str], number: int | None) -> None:
    """``lcpdn``, killed when half of its checkpoint of this number, from 0, is on disk."""
    from lcpdn_pl.files import write_whole

    written = count()

    def tear(file: int) -> None:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def write_or_tear(path: Path, content: str | bytes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if next(written) == number:
                patch.setattr(os, "fsync", tear)
            write_whole(path, content)

    pytest.MonkeyPatch().setattr("lcpdn_pl.checkpoints.write_whole", write_or_tear)
    main(args)


def assert_same_end(ours: Path, theirs: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        checkpoints = [torch.load(run / name, weights_only=True) for run in (ours, theirs)]
        for part in (*WEIGHTS, "optimizer_states", "lr_schedulers", "global_step"):
            (values, names), (wanted, wanted_names) = (tree_flatten(c[part]) for c in checkpoints)
            assert names == wanted_names
            for value, other in zip(values, wanted, strict=True):
                torch.testing.assert_close(value, other, rtol=0, atol=0)
    for run in (ours, theirs):
        main(["test", "--ckpt_path", str(run / "best.ckpt")])
    for name in ("metrics.csv", "per_image.csv"):
        ours_test, theirs_test = (run / "test/phantom" / name for run in (ours, theirs))
        assert ours_test.read_bytes() == theirs_test.read_bytes()


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcpdn_pl.tasks import SegmentationTask

    fit = ["fit", *RUN, f"--data.num_workers={workers}", "--trainer.max_epochs=3"]
    main([*fit, "--run_folder=whole"])
    assert torch.initial_seed() == 0  # the run's, not a step's
    step = SegmentationTask.training_step

    def killed(self: SegmentationTask, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == 12:
            raise RuntimeError("killed")
        return step(self, batch, batch_index)

    monkeypatch.setattr(SegmentationTask, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        main([*fit, "--run_folder=cut"])
    monkeypatch.setattr(SegmentationTask, "training_step", step)
    assert torch.load("cut/last.ckpt", weights_only=True)["global_step"] == 10  # 7 + 3
    main(["fit", "--ckpt_path=cut/last.ckpt"])
    assert_same_end(Path("cut"), Path("whole"))


def fit_and_log(folder: str, *args: str) -> list[str]:
    """Arguments of a run that writes its curves as a table."""
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}"]
    return ["fit", *RUN, "--trainer.max_epochs=3", f"--run_folder={folder}", *logger, *args]


def validations(folder: str) -> list[tuple[int, float]]:
    """Steps, from 0, after which a run was validated, and what was found."""
    tables = [pd.read_csv(path) for path in sorted(Path(folder).rglob("metrics.csv"))]
    rows = pd.concat(tables)[["step", "val/dice"]].dropna()
    return list(rows.itertuples(index=False, name=None))


# An epoch has 7 steps: in its middle, before a validation there, at its end without and with one.
@pytest.mark.parametrize(("steps", "interval"), [(11, "3"), (13, "3"), (14, "3"), (14, "1.0")])
def test_a_run_that_is_stopped_keeps_its_step(
    steps: int, interval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcpdn_pl.tasks import SegmentationTask

    every = f"--trainer.val_check_interval={interval}"
    main(fit_and_log("whole", every))
    step = SegmentationTask.training_step

    def stopped(self: SegmentationTask, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == steps - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(SegmentationTask, "training_step", stopped)
    with interruptible(), pytest.raises(SystemExit) as ended:
        main(fit_and_log("cut", every))
    assert ended.value.code == 130
    monkeypatch.setattr(SegmentationTask, "training_step", step)
    assert torch.load("cut/last.ckpt", weights_only=True)["global_step"] == steps
    main(["fit", "--ckpt_path=cut"])
    assert validations("cut") == validations("whole")
    assert not list(Path("cut").glob("*.stopped"))
    assert_same_end(Path("cut"), Path("whole"))


def test_a_validation_that_is_cut_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from lcpdn_pl.tasks import SegmentationTask

    main(fit_and_log("whole"))
    step = SegmentationTask.validation_step
    training = SegmentationTask.training_step

    def stopped(self: SegmentationTask, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return training(self, batch, batch_index)

    def cut(self: SegmentationTask, batch: Any, batch_index: int) -> Any:
        if self.global_step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(SegmentationTask, "training_step", stopped)
    monkeypatch.setattr(SegmentationTask, "validation_step", cut)
    with interruptible(), pytest.raises(SystemExit) as ended:
        main(fit_and_log("cut"))
    monkeypatch.setattr(SegmentationTask, "training_step", training)
    monkeypatch.setattr(SegmentationTask, "validation_step", step)
    assert ended.value.code == 130
    assert not list(Path("cut").glob("*.stopped"))
    assert torch.load("cut/last.ckpt", weights_only=True)["global_step"] == 10
    main(["fit", "--ckpt_path=cut"])
    assert validations("cut") == validations("whole")
    assert_same_end(Path("cut"), Path("whole"))


def test_a_step_is_kept_where_the_next_one_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lcpdn_pl.data.dataset import SegmentationDataset
    from lcpdn_pl.tasks import SegmentationTask

    main(fit_and_log("whole"))
    training, read = SegmentationTask.training_step, SegmentationDataset.__getitem__
    asked = False

    def stopped(self: SegmentationTask, batch: Any, batch_index: int) -> torch.Tensor:
        nonlocal asked
        if self.global_step == 13:
            os.kill(os.getpid(), signal.SIGINT)
            asked = True
        return training(self, batch, batch_index)

    def slow(self: SegmentationDataset, draw: Any) -> Any:
        if asked:  # the next epoch's first image: the one before is loaded ahead
            assert Path("cut/last.ckpt.stopped").is_file()
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, draw)

    monkeypatch.setattr(SegmentationTask, "training_step", stopped)
    monkeypatch.setattr(SegmentationDataset, "__getitem__", slow)
    with interruptible(), pytest.raises(SystemExit) as ended:
        main(fit_and_log("cut"))
    assert ended.value.code == 130
    monkeypatch.setattr(SegmentationTask, "training_step", training)
    monkeypatch.setattr(SegmentationDataset, "__getitem__", read)
    assert torch.load("cut/last.ckpt", weights_only=True)["global_step"] == 14
    main(["fit", "--ckpt_path=cut"])
    assert validations("cut") == validations("whole")
    assert_same_end(Path("cut"), Path("whole"))


# The first one at all, the second one, and each of two that replace a whole one.
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_run_that_is_killed_while_it_writes_a_checkpoint_ends_alike(number: int) -> None:
    fit = ["fit", *RUN, "--trainer.max_epochs=3"]
    main([*fit, "--run_folder=whole"])
    process = run_in_child(*fit, "--run_folder=cut", torn_write=number)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(Path("cut").glob(".*.partial"))) == 1
    for path in Path("cut").glob("*.ckpt"):
        torch.load(path, weights_only=True)
    main(["fit", "--ckpt_path=cut"])
    assert not list(Path("cut").glob(".*.partial"))
    assert_same_end(Path("cut"), Path("whole"))


def test_a_run_that_is_killed_at_random_moments_ends_alike() -> None:
    fit = ["fit", *RUN, f"--trainer.max_epochs={15 * KILLS}"]
    run_in_child("--version").join()  # imports take longer than all else, once
    begun = time.time()
    process = run_in_child(*fit, "--run_folder=whole")
    process.join()
    assert process.exitcode == 0
    before = Path("whole/config.yaml").stat().st_mtime - begun
    training = time.time() - begun - before

    rng = random.Random(0)
    command = [*fit, "--run_folder=cut"]
    for _ in range(KILLS):
        process = run_in_child(*command)
        process.join(timeout=before * rng.uniform(0.5, 1) + rng.uniform(0, training / KILLS))
        assert process.exitcode is None, "the run ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if Path("cut/config.yaml").is_file():
            command = ["fit", "--ckpt_path=cut"]
    process = run_in_child(*command)
    process.join()
    assert process.exitcode == 0
    assert_same_end(Path("cut"), Path("whole"))
