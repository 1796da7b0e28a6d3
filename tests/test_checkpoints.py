"""Checkpoints are written whole, and the newest whole one is found."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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
from tests.conftest import TreeMaker
from tests.test_restore import TINY, run

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


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"state_dict": {}},
        {"global_step": 1},
        {"global_step": "3", "state_dict": {}},
        {"global_step": 1, "state_dict": {}, "epoch": "x"},
        {"global_step": 1, "state_dict": {}, "loops": {"fit_loop": {"state_dict": "x"}}},
    ],
    ids=str,
)
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


def changed(content: dict[str, Any], keys: Iterable[str], value: Any) -> None:
    *above, last = keys
    for key in above:
        content = content[key]
    content[last] = value


def without(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(part)


def with_part(*keys: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: changed(content, keys, value)


def with_best(**state: Any) -> Callable[[dict[str, Any]], object]:
    """With another state of the callbacks that know the best checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for known in content["callbacks"].values():
            if "best_model_path" in known:
                known.update(state)

    return change


def with_weight(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], object]:
    def change_first(content: dict[str, Any]) -> None:
        weights = content["state_dict"]
        name = next(iter(weights))
        weights[name] = change(weights[name])

    return change_first


# A test needs neither the optimizer nor how far training was.
OF_BOTH = {
    "loops={}": with_part("loops", value={}),
    "callbacks=5": with_part("callbacks", value=5),
    "a callback's state is 5": with_part("callbacks", "RunSummary", value=5),
    "no version": without("pytorch-lightning_version"),
    "version=x": with_part("pytorch-lightning_version", value="x"),
    "version=5": with_part("pytorch-lightning_version", value=5),
    "current_model_state=5": with_part("current_model_state", value=5),
    "best_model_path=5": with_best(best_model_path=5),
    "best_model_score=x": with_best(best_model_score="x"),
    "best_k_models=5": with_best(best_k_models=5),
    "a weight is 5": with_weight(lambda _: 5),
    "a weight is sparse": with_weight(torch.Tensor.to_sparse),
    "a weight of no name": with_part("state_dict", 5, value=torch.zeros(1)),  # type: ignore[arg-type]
    "optimizer_states=5": with_part("optimizer_states", value=5),
    "lr_schedulers=5": with_part("lr_schedulers", value=5),
    "a loader's epoch is x": with_part(
        "loops", "fit_loop", "state_dict", value={"combined_loader": [{"epoch": "x"}]}
    ),
}
OF_FIT = {
    "no loops": without("loops"),
    "no callbacks": without("callbacks"),
    "callbacks={}": with_part("callbacks", value={}),
    "no optimizer_states": without("optimizer_states"),
    "no lr_schedulers": without("lr_schedulers"),
    "optimizer_states=[]": with_part("optimizer_states", value=[]),
    "optimizer_states=[{}]": with_part("optimizer_states", value=[{}]),
    "progress={}": with_part("loops", "fit_loop", "epoch_progress", value={}),
}


@pytest.fixture(scope="module")
def trained(make_tree: TreeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run, of which each case damages a copy of its checkpoint."""
    place = tmp_path_factory.mktemp("trained")
    tiny = [f"--config={TINY}", "--model.network=Pixels", "--model.network.head_widths=[4,4]"]
    tree = f"--data.root={make_tree(place / 'tree', counts=(1, 1, 1))}"
    data = ["--data=MoNuSeg", tree, "--data.protocol=full", "--data.image_size=16"]
    main(["fit", *tiny, *data, "--trainer.max_epochs=1", f"--run_folder={place / 'run'}"])
    return place / "run"


def damaged(trained: Path, damage: Callable[[dict[str, Any]], object]) -> str:
    content = torch.load(trained / "last.ckpt", weights_only=True)
    damage(content)
    torch.save(content, trained / "damaged.ckpt")
    return f"--ckpt_path={trained / 'damaged.ckpt'}"


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("damage", OF_BOTH.values(), ids=OF_BOTH)
@pytest.mark.parametrize("command", ["test", "fit"])
def test_a_damaged_checkpoint_is_told(
    damage: Callable[[dict[str, Any]], object],
    command: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--trainer.max_epochs=2"] if command == "fit" else []
    told = complaint(capsys, command, damaged(trained, damage), *more)
    assert "damaged.ckpt: expected a checkpoint of" in told
    assert "or take its other checkpoint" in told


@pytest.mark.parametrize("damage", OF_FIT.values(), ids=OF_FIT)
def test_what_a_test_does_not_need_a_run_that_goes_on_does(
    damage: Callable[[dict[str, Any]], object], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = damaged(trained, damage)
    main(["test", checkpoint])
    told = complaint(capsys, "fit", checkpoint, "--trainer.max_epochs=2")
    assert "damaged.ckpt: expected " in told
    assert "or take its other checkpoint" in told
