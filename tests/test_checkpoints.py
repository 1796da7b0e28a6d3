"""Checkpoints are written whole, and the newest whole one is found."""

from pathlib import Path

import pytest
import torch

from lcpdn_pl.checkpoints import (
    RunCheckpoint,
    WholeCheckpointIO,
    newest_checkpoint,
    read_checkpoint,
    run_config,
)
from lcpdn_pl.cli import main
from lcpdn_pl.errors import CheckpointError
from tests.test_restore import run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory


def write(path: Path, steps: int) -> None:
    WholeCheckpointIO().save_checkpoint({"global_step": steps, "state_dict": {}}, path)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    write(best, 3)
    assert newest_checkpoint(tmp_path) == best
    write(last, 5)
    assert newest_checkpoint(tmp_path) == last
    write(best, 7)  # the run was killed before it wrote the last one anew
    assert newest_checkpoint(tmp_path) == best
    best.write_bytes(best.read_bytes()[:-200])
    assert newest_checkpoint(tmp_path) == last
    last.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ckpt: expected a checkpoint of lcpdn fit, found"):
        newest_checkpoint(tmp_path)


def test_a_run_that_was_moved_knows_its_best_checkpoint(tmp_path: Path) -> None:
    before = RunCheckpoint(tmp_path / "before", filename="best", monitor="val/dice", mode="max")
    best = str(tmp_path / "before/best.ckpt")
    before.best_model_score = torch.tensor(0.9)
    before.best_model_path = before.kth_best_model_path = best
    before.kth_value = before.best_k_models[best] = torch.tensor(0.9)
    after = RunCheckpoint(tmp_path / "after", filename="best", monitor="val/dice", mode="max")
    after.load_state_dict(before.state_dict())
    assert after.best_model_score == 0.9
    assert after.best_model_path == after.kth_best_model_path == str(tmp_path / "after/best.ckpt")
    assert after.best_k_models == {str(tmp_path / "after/best.ckpt"): 0.9}


@pytest.mark.parametrize("content", [[1], {"state_dict": {}}, {"global_step": 1}])
def test_what_is_no_checkpoint_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_checkpoint_comes_with_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt does not exist; expected"):
        run_config(tmp_path / "last.ckpt")
    write(tmp_path / "last.ckpt", 1)
    with pytest.raises(CheckpointError, match=r"config\.yaml does not exist; expected"):
        run_config(tmp_path / "last.ckpt")


def test_a_run_folder_stands_for_its_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (run / "last.ckpt").read_bytes()
    steps = read_checkpoint(run / "last.ckpt")["global_step"]
    main(["test", "--ckpt_path", str(run)])
    assert list(run.glob("test/*/metrics.csv"))
    for path in run.glob("*.ckpt"):
        path.unlink()
    main(["fit", "--ckpt_path", str(run)])  # it ended before its first checkpoint
    assert read_checkpoint(run / "last.ckpt")["global_step"] == steps
    (run / "last.ckpt").write_bytes(weights[:100])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path", str(run / "last.ckpt")])
    assert "last.ckpt: expected a checkpoint of lcpdn fit, found" in capsys.readouterr().err
