"""A run restored outside the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lcpdn_pl.cli import main
from lcpdn_pl.data import MoNuSeg
from lcpdn_pl.errors import CheckpointError, LCPDNError
from lcpdn_pl.models import Pixels
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import SegmentationTask
from tests.conftest import TreeMaker

TINY = Path(__file__).parent / "configs" / "tiny.yaml"


@pytest.fixture
def run(make_tree: TreeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--config={TINY}",
        "--model.network=Pixels",
        "--model.network.head_widths=[4,4]",
        "--data=MoNuSeg",
        f"--data.root={make_tree(tmp_path / 'tree')}",
        "--data.protocol=full",
        "--data.image_size=16",
        "--run_folder=run",
    ]
    main(["fit", *arguments])
    return Path("run")


def test_weights_and_data_come_back(run: Path) -> None:
    task, data = restore(run / "last.ckpt")
    assert isinstance(task, SegmentationTask)
    assert isinstance(task.network, Pixels)
    assert not task.training
    stored: dict[str, Any] = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in task.state_dict().items():
        assert torch.equal(value, stored[name])
    assert isinstance(data, MoNuSeg)
    assert (data.image_size, data.protocol) == (16, "full")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 5000,
        b"model: null\ndata: null",
        b"model: 2020-13-45",
        b"&a [*a]",
        b"model: \xff",
    ],
)
def test_what_is_no_configuration_is_refused(run: Path, content: bytes) -> None:
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(LCPDNError, match=r"run/config\.yaml: expected "):
        restore(run / "last.ckpt")


def test_weights_of_another_shape_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("- 4\n        - 4", "- 4\n        - 5"))
    with pytest.raises(CheckpointError, match=r"of shape \(5,\), found \(4,\); .* 5 weights"):
        restore(run / "last.ckpt")
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={run / 'last.ckpt'}"])
    assert "The checkpoint does not fit the network" in capsys.readouterr().err


def test_state_that_is_no_state_is_refused(run: Path) -> None:
    content = torch.load(run / "last.ckpt", weights_only=True)
    torch.save(content | {"backbones": {}, "current_model_state": 5}, run / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"its current_model_state should be dense tensors"):
        restore(run / "last.ckpt")


def test_a_checkpoint_alone_is_not_enough(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.ckpt"
    alone.write_bytes((run / "last.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match=r"config.yaml does not exist; .*Move the whole run"):
        restore(alone)
