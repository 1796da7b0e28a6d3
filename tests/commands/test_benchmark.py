"""Grids of runs: what is a cell, what is run, what is not run again."""

import json
import shlex
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
import yaml

from lcpdn_pl.cli import main
from lcpdn_pl.commands.grid import STATE, read_grid
from lcpdn_pl.errors import ConfigError
from tests.conftest import TreeMaker

GRID = {
    ".a": "kept for repeats",
    "out": "runs/grid",
    "grids": [
        {"data": {"one": "--data.a 1", "two": "--data.a 2"}, "seed": {0: "-s 0", 1: "-s '1 2'"}},
        {"data": {"three": None}},
    ],
    "tests": {"right": "", "empty": "--data.test_reports empty"},
}


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False))
    return path


class Calls(list[str]):
    """Stands for the processes: keeps what was called, and fails or leaves a checkpoint."""

    def __init__(self) -> None:
        self.fail = ""
        self.status = 1
        self.prints = b""
        self.environment: dict[str, str] = {}

    def __call__(
        self, command: list[str], stdout: BinaryIO, env: dict[str, str], **_: object
    ) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "lcpdn_pl"]
        self.environment = env
        self.append(shlex.join(command[3:]))
        stdout.write(self.prints)
        stdout.flush()
        failed = bool(self.fail) and self.fail in self[-1]
        return SimpleNamespace(returncode=self.status if failed else 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(subprocess, "run", calls)
    return calls


def test_cells_are_all_combinations(grid: Path) -> None:
    cells = read_grid(grid)
    assert [cell.name for cell in cells] == ["one/0", "one/1", "two/0", "two/1", "three"]
    assert cells[1].fit == ["--data.a", "1", "-s", "1 2"]
    assert cells[1].folder == Path("runs/grid/one/1")
    assert cells[4].fit == []
    assert cells[0].tests == {"right": [], "empty": ["--data.test_reports", "empty"]}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([{"data": {"one": ""}}, {"data": {"one": ""}, "seed": {0: ""}}], "one/0 would lie in the"),
        ([{"data": {"": ""}}], "name a folder inside of `out`"),
        ([{"data": {".": ""}}], "name a folder inside of `out`"),
        ([{"data": {"a/b": ""}}], "without a slash, found 'a/b'"),
    ],
)
def test_cells_do_not_lie_in_each_other(
    blocks: list[dict[str, object]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"out": "runs", "grids": blocks}))
    with pytest.raises(ConfigError, match=message):
        read_grid(path)


def test_labels_may_be_called_like_settings(grid: Path, calls: Calls) -> None:
    """`loss: --model.loss.dice_weight 1.5` names no code, though its value has dots."""
    axis = {"loss": "--model.loss.dice_weight 1.5", "optimizer": "--model.optimizer.lr 1e-3"}
    grid.write_text(yaml.safe_dump({"out": "runs/grid", "grids": [{"change": axis}]}))
    main(["benchmark", str(grid)])
    assert calls[0] == "fit --model.loss.dice_weight 1.5 --run_folder runs/grid/loss"


def test_no_job_is_an_error(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid), "--jobs", "0"])
    assert "--jobs is 0: expected the number of cells" in capsys.readouterr().err


def test_cells_that_run_together_share_the_cores(
    grid: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["lcpdn_pl.commands.benchmark"], "_cores", lambda: 12)
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        monkeypatch.delenv(variable, raising=False)
    main(["benchmark", str(grid), "--only", "one/0"])
    assert "OMP_NUM_THREADS" not in calls.environment  # one alone has them all
    main(["benchmark", str(grid), "--only", "one/1", "--jobs", "3"])
    assert calls.environment["OMP_NUM_THREADS"] == "4"
    assert calls.environment["OPENCV_FOR_THREADS_NUM"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    main(["benchmark", str(grid), "--only", "two/0", "--jobs", "3"])
    assert calls.environment["OMP_NUM_THREADS"] == "2"  # as the user has it


def test_everything_runs_once(grid: Path, calls: Calls) -> None:
    main(["benchmark", str(grid)])
    assert len(calls) == 15
    assert calls[:3] == [
        "fit --data.a 1 -s 0 --run_folder runs/grid/one/0",
        "test --ckpt_path runs/grid/one/0/best.ckpt",
        "test --ckpt_path runs/grid/one/0/best.ckpt --data.test_reports empty",
    ]
    main(["benchmark", str(grid)])
    assert len(calls) == 15


def test_a_new_test_is_made_up_for_and_other_arguments_are_refused(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["benchmark", str(grid)])
    calls.clear()
    grid.write_text(
        yaml.safe_dump(GRID | {"tests": {"right": "", "shuffled": "--x"}}, sort_keys=False)
    )
    main(["benchmark", str(grid)])
    assert len(calls) == 5
    assert all(call.endswith("best.ckpt --x") for call in calls)
    grid.write_text(
        yaml.safe_dump(GRID | {"grids": [{"data": {"three": "--other"}}]}, sort_keys=False)
    )
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid)])
    error = capsys.readouterr().err
    assert "runs/grid/three was made with ``, but the grid now says `--other`" in error
    assert len(calls) == 5


def test_what_was_killed_goes_on(grid: Path, calls: Calls) -> None:
    calls.fail = "fit"
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid), "--only", "one/*"])
    assert len(calls) == 2
    Path("runs/grid/one/0/last.ckpt").touch()
    Path("runs/grid/one/1/config.yaml").touch()
    calls.clear()
    calls.fail = ""
    main(["benchmark", str(grid), "--only", "one/*"])
    assert calls[0] == "fit --ckpt_path runs/grid/one/0"
    assert calls[3] == "fit --data.a 1 -s '1 2' --run_folder runs/grid/one/1"
    assert not Path("runs/grid/one/1/config.yaml").exists()  # of a run without a checkpoint


@pytest.mark.parametrize(("checkpoint", "seconds"), [("last.ckpt", 120), ("config.yaml", 60)])
def test_the_time_of_a_fit_that_goes_on_is_that_of_all_its_parts(
    checkpoint: str, seconds: int, grid: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=count(0, 60).__next__)
    monkeypatch.setattr(sys.modules["lcpdn_pl.commands.benchmark"], "time", clock)
    calls.fail = "fit"
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid), "--only", "three"])
    Path("runs/grid/three", checkpoint).touch()
    calls.fail = ""
    main(["benchmark", str(grid), "--only", "three"])
    state = json.loads(Path("runs/grid/three", STATE).read_text())
    assert state["seconds"] == {"fit": seconds, "right": 60, "empty": 60}


def test_brackets_of_a_log_are_shown_as_they_are(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.fail = "fit"
    calls.prints = b"no [image] in [/data/x]"
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid)])
    assert len(calls) == 5
    printed = capsys.readouterr().out
    assert printed.count("[image]") == printed.count("[/data/x]") == 5


def test_a_failing_cell_is_listed_and_the_others_run(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.fail = "one/1/best.ckpt"
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", str(grid)])
    assert stopped.value.code == 1
    assert len(calls) == 14
    error = capsys.readouterr().err
    assert "1 of 5 cells failed: one/1 (lcpdn test ended with status 1: it printed nothing" in error
    calls.clear()
    calls.fail = ""
    main(["benchmark", str(grid)])
    assert [call.split()[0] for call in calls] == ["test", "test"]


def test_a_killed_cell_is_said_to_be(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.fail, calls.status = "one/1/best.ckpt", -9
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid)])
    error = capsys.readouterr().err
    assert "one/1 (lcpdn test was killed by signal 9 (see " in error
    assert "for want of memory: run fewer cells" in error


def test_dry_run_and_spent_budget_start_nothing(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["benchmark", str(grid), "--only", "t*", "--dry-run"])
    assert "3 cells" in (shown := capsys.readouterr().out)
    assert "two/1" in shown
    assert "one" not in shown
    main(["benchmark", str(grid), "--budget", "0"])
    assert "5 cells are left, since the budget is spent" in capsys.readouterr().out
    assert not calls


def test_what_is_no_cell_is_left_alone(grid: Path, calls: Calls) -> None:
    precious = Path("runs/grid/two/1/precious.txt")
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid)])
    assert precious.exists()
    assert not calls


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"out": "x"}, "expected `out`, `grids` and, if wanted, `tests`, found out"),
        ({"out": "x", "grids": [], "cells": []}, "found out, grids, cells"),
        ([1], "found none of them"),
        ({"out": "x", "grids": {"seed": {0: ""}}}, "expected `grids` to be a list of axes"),
        ({"out": "x", "grids": [{"seed": [0, 1]}]}, "expected `seed` to map labels to arguments"),
        ({"out": "x", "grids": [{"a": {1: ""}}, {"b": {1: ""}}]}, "two cells are called 1"),
        ({"out": ["x"], "grids": []}, r"expected `out` to name a folder, found \['x'\]"),
        ({"out": "x" * 300, "grids": []}, "expected `out` to name a folder"),
        ({"out": "x", "grids": [{"a": {1: "'"}}]}, "expected arguments .* for `1` of `a`, found"),
        ({"out": "x", "grids": [{"a": {1: ["-s"]}}]}, "expected arguments as on a command line"),
        ({"out": "x", "grids": [{"a": {"x" * 61: ""}}]}, "in at most 60 characters"),
    ],
)
def test_other_contents_are_refused(grid: Path, content: object, message: str) -> None:
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError, match=message):
        read_grid(grid)


@pytest.mark.parametrize("content", [b"a: [", b"a: \xff", b"a: 2020-13-45", b"[" * 5000])
def test_what_is_no_yaml_is_refused(grid: Path, content: bytes) -> None:
    grid.write_bytes(content)
    with pytest.raises(ConfigError, match=r"grid\.yaml is no readable YAML file: "):
        read_grid(grid)


@pytest.mark.parametrize(
    "changes",
    [{"fit": "-s 1"}, {"fit": [1]}, {"tested": []}, {"seconds": {"fit": "1"}}, {"fitted": "no"}],
    ids=str,
)
def test_a_broken_state_of_a_cell_is_refused(grid: Path, changes: dict[str, object]) -> None:
    cell = read_grid(grid)[0]
    cell.write(cell.read())
    state = cell.folder / STATE
    state.write_text(json.dumps(json.loads(state.read_text()) | changes))
    with pytest.raises(ConfigError, match=r"cell\.json is broken \(.*\)\. Remove the folder"):
        cell.read()


def test_no_cell_matches(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", str(grid), "--only", "four"])
    assert "No cell of" in (error := capsys.readouterr().err)
    assert "one/0, one/1" in error


def test_a_real_cell_is_an_ordinary_run_folder(
    grid: Path, make_tree: TreeMaker, tmp_path: Path
) -> None:
    config = Path(__file__).parents[1] / "configs" / "tiny.yaml"
    fit = (
        f"--config {config} --model.network Pixels --data=MoNuSeg --data.protocol=full "
        f"--data.root={make_tree(tmp_path / 'tree')} --data.image_size=16 --trainer.max_epochs=1"
    )
    grid.write_text(yaml.safe_dump({"out": "runs", "grids": [{"method": {"pixels": fit}}]}))
    main(["benchmark", str(grid)])
    folder = Path("runs/pixels")
    for name in ("config.yaml", "best.ckpt", "last.ckpt", "log.txt", "test/monuseg/metrics.csv"):
        assert (folder / name).is_file()
    assert "Test it with" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        *("--run_folder=/x", "--run_folde=/x", "--run_fold /x", "--run /x", "--ckpt_pat x"),
        *("--ckpt_path=x", "--c=x", "-- x"),
    ],
)
def test_a_cell_names_no_folder_by_the_beginning_of_an_option(grid: Path, arguments: str) -> None:
    for parts in (
        {"grids": [{"a": {1: arguments}}]},
        {"grids": [{"a": {1: ""}}], "tests": {"right": arguments}},
    ):
        grid.write_text(yaml.safe_dump({"out": "runs"} | parts))
        with pytest.raises(ConfigError, match="but a cell's folder follows from `out`"):
            read_grid(grid)


def test_a_configuration_does_not_move_a_cell(
    grid: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[1] / "configs" / "tiny.yaml"
    Path("own.yaml").write_text("run_folder: elsewhere\n")
    fit = f"--config {config} --model.network Pixels --data MoNuSeg --config own.yaml"
    grid.write_text(yaml.safe_dump({"out": "runs", "grids": [{"method": {"a": fit}}]}))
    main(["benchmark", str(grid)])
    assert json.loads(Path("runs/a", STATE).read_text())["fit"] == shlex.split(fit)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*shlex.split(calls[0]), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["run_folder"] == "runs/a"
