"""Configurations of runs and of grids, damaged."""

import copy
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, note
from hypothesis import strategies as st

from lcpdn_pl.cli import INTERRUPTED, main
from lcpdn_pl.commands.grid import STATE, Cell, Progress, read_grid
from lcpdn_pl.data import DataModule
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import Task
from lcpdn_pl.trust import refuse_foreign_code
from tests.fuzz.mutations import (
    CANARY,
    ODD_VALUES,
    Content,
    cases,
    damaged,
    odd_tree,
    outcome,
    recoded,
)

CODE = f"{CANARY}.Sprung"
CALLED: tuple[Any, ...] = (
    {"class_path": CODE},
    {"class_path": "lcpdn_pl.models.UNet", "init_args": {"widths": CODE}},
    {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": CODE}},
    {
        "class_path": "lightning.pytorch.callbacks.LambdaCallback",
        "init_args": {"setup": f"{CANARY}.spring"},
    },
    {"class_path": "torch.hub.load", "init_args": {"source": "local"}},
    [CODE],
    *ODD_VALUES,
)
# No large ones: they would be tried, and fill the memory.
PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, -5, 0.5, 1.5, -0.5, math.nan, math.inf, -math.inf),
    *("", "foo", "1", ".", "/dev/null/x", [], {}, [0], [-1, 2], [None], 2, 5),
)
PROCESSES = {"devices", "num_nodes", "num_workers"}
YAML_TOKENS = (
    *(
        b"&a ",
        b"*a",
        b"<<: *a",
        b"? ",
        b": ",
        b"- ",
        b"| ",
        b"> ",
        b"!!",
        b"\t",
        b"---\n",
        b"...\n",
    ),
    *(b"!!timestamp x", b"!!int x", b"!!float x", b"!!bool x", b"!!set {a, b}", b"!!omap [a: b]"),
    *(b"2020-13-45", b"0x", b"1:99", b"0b2", b".inf", b"[" * 5000, b"{a: " * 2000, b"%YAML 9.9\n"),
    f"!!python/object/apply:{CANARY}.spring []".encode(),
    f"!!python/name:{CODE}".encode(),
    CODE.encode(),
)
GRID = {
    "out": "runs/grid",
    ".seed": {0: "--seed_everything 0"},
    "grids": [
        {
            "data": {"monuseg": "--config configs/monuseg.yaml"},
            "method": {"full": "", "unet": "--x 1"},
        },
        {"data": {"qata": "--config configs/qata_cov19.yaml"}, "method": {"full": None}},
    ],
    "tests": {"right": "", "noise": "--data.test_corruption 'noise'"},
}
CELL = Cell(Path("cell"), "cell", ["--seed_everything", "0"], {"right": [], "noise": ["--x", "1"]})
STATES = {
    "fit": CELL.fit,
    "fitted": True,
    "tested": {"right": []},
    "seconds": {"fit": 1.5, "right": 0.5},
}


def as_yaml(tree: Any) -> bytes:
    return Content(yaml.safe_dump(tree, allow_unicode=True).encode())


def odd_yaml(tree: Any, values: Sequence[Any] = CALLED) -> st.SearchStrategy[bytes]:
    content = as_yaml(tree)
    return st.one_of(
        odd_tree(tree, values, loops=True).map(as_yaml),
        damaged(content, YAML_TOKENS),
        recoded(content.decode()),
    )


@cases(40)
@given(st.data())
def test_configurations_of_runs(trained: Path, run: Path, data: st.DataObject) -> None:
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    # What a run does with its data and trainer is none of a network's that is used.
    parts = {part: settings[part] for part in ("model", "data", "trainer")}
    (run / "config.yaml").write_bytes(data.draw(odd_yaml(parts)))
    found = outcome(lambda: restore(run / "last.ckpt"))
    if found is not None:
        task, module = found
        assert isinstance(task, Task)
        assert not task.training
        assert isinstance(module, DataModule)


@cases(50)
@given(st.data())
def test_code_is_looked_for_in_anything(trained: Path, folder: Path, data: st.DataObject) -> None:
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    file = folder / "config.yaml"
    file.write_bytes(data.draw(odd_yaml(settings)))
    outcome(lambda: refuse_foreign_code(file))


@cases(8, cost=20)
@given(st.data())
def test_configurations_on_the_command_line(
    trained: Path, folder: Path, data: st.DataObject
) -> None:
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    file = folder / "config.yaml"
    file.write_bytes(data.draw(odd_yaml(settings)))

    def status() -> object:
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", str(file), "--print_config"])
        return end.value.code

    assert outcome(status) in (0, 1, 2)


def settings_of(tree: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Paths of the single settings, and of lists as a whole."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from settings_of(value, *path, key)
    else:
        yield path


@pytest.fixture(scope="module")
def whole(trained: Path, folder: Path) -> dict[str, Any]:
    """All settings of a short run, with a schedule and a callback that have some of their own."""
    settings: dict[str, Any] = yaml.safe_load((trained / "config.yaml").read_text())
    settings["run_folder"] = str(folder / "short")
    settings["model"]["init_args"] |= {
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.5}},
        "lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            "init_args": {"T_0": 2},
        },
    }
    stopping = "lightning.pytorch.callbacks.EarlyStopping"
    settings["trainer"] |= {
        "callbacks": {"class_path": stopping, "init_args": {"monitor": "val/loss", "mode": "min"}},
        "logger": False,
        "enable_progress_bar": False,
    }
    return settings


def two_epochs(task: Task) -> None:
    if task.current_epoch == 2:
        raise KeyboardInterrupt


@cases(12, cost=10)
@given(st.data())
def test_values_that_only_a_run_refuses(whole: dict[str, Any], data: st.DataObject) -> None:
    settings = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        *path, key = data.draw(st.sampled_from(list(settings_of(whole))))
        part = settings
        for step in path:
            part = part[step]
        part[key] = data.draw(st.sampled_from(PLAIN if key not in PROCESSES else PLAIN[:-2]))
        note(f"{'.'.join(path)}.{key}: {part[key]}")
    shutil.rmtree(whole["run_folder"], ignore_errors=True)
    file = Path(whole["run_folder"]).with_name("short.yaml")
    file.write_bytes(as_yaml(settings))

    def status() -> object:
        try:
            main(["fit", "--config", str(file)])
        except SystemExit as end:
            return end.code
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "on_train_epoch_start", two_epochs)
        patch.chdir(file.parent)
        assert outcome(status) in (0, 1, 2, INTERRUPTED)


@cases(100)
@given(odd_yaml(GRID, ODD_VALUES))
def test_grids(folder: Path, content: bytes) -> None:
    file = folder / "grid.yaml"
    file.write_bytes(content)
    cells = outcome(lambda: read_grid(file))
    if cells is None:
        return
    assert len({cell.folder for cell in cells}) == len(cells)
    for cell in cells:
        assert isinstance(cell.folder, Path)
        for arguments in (cell.fit, *cell.tests.values()):
            assert all(isinstance(argument, str) for argument in arguments)
    outcome(lambda: [cell.done() for cell in cells])


@cases(100)
@given(
    st.one_of(
        odd_tree(STATES).map(lambda tree: Content(json.dumps(tree, default=str).encode())),
        damaged(json.dumps(STATES).encode()),
    )
)
def test_states_of_cells(folder: Path, content: bytes) -> None:
    cell = Cell(folder, CELL.name, CELL.fit, CELL.tests)
    (folder / STATE).write_bytes(content)
    progress = outcome(cell.read)
    if progress is not None:
        assert isinstance(progress, Progress)
        assert isinstance(progress.fitted, bool)
        assert all(isinstance(seconds, int | float) for seconds in progress.seconds.values())
        outcome(cell.done)
