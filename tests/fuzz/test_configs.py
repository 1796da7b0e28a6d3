"""Configurations of runs and of grids, damaged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lcpdn_pl.cli import main
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
