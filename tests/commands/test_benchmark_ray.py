"""A grid on a Ray cluster of two workers, one of which dies."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcpdn_pl.cli import main
from lcpdn_pl.commands.results import read_results

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # whatever else runs
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def parent_of_run(folder: Path) -> int | None:
    """The process that started the run of a folder, once there is one."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().split(b"\0")
            if b"fit" in command and str(folder).encode() in command:
                return int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    return None


@pytest.mark.usefixtures("cluster")
def test_a_cell_whose_worker_dies_is_tried_again(
    tiny_denoiser: str, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = (
        f"--config {TINY} --model.network.denoiser={tiny_denoiser} "
        f"--model.network.text_encoder={tiny_bert} --data=Phantom --data.counts='[4,2,2]' "
        "--data.image_size=32 --trainer.max_epochs=1"
    )
    seeds = {seed: f"--seed_everything {seed}" for seed in range(2)}
    grid = {"out": "runs/grid", "grids": [{"method": {"tiny": fit}, "seed": seeds}]}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 120
        while not killed and time.monotonic() < end:
            worker = parent_of_run(Path("runs/grid/tiny/1"))
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    main(["benchmark", "grid.yaml", "--engine", "ray"])
    killer.join()
    assert killed
    assert killed != [os.getpid()]
    assert sorted(result.seed for result in read_results([Path("runs/grid")])) == [0, 1]


def test_no_cluster_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("grid.yaml").write_text("out: runs\ngrids: [{seed: {0: ''}}]\n")
    with pytest.raises(SystemExit):
        main(["benchmark", "grid.yaml", "--engine", "ray"])
    assert "found no Ray cluster" in capsys.readouterr().err
