"""Ctrl-C ends a run in one line, and the run goes on from its last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import torch

from lcpdn_pl.__main__ import main as started
from lcpdn_pl.cli import main
from lcpdn_pl.tasks import SegmentationTask
from tests.test_restore import run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory

TINY = Path(__file__).parent / "configs" / "tiny.yaml"


def test_interrupted_fit_says_how_to_go_on(
    tiny_denoiser: str, tiny_bert: str, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "lcpdn_pl", "fit", "--config", str(TINY), "--run_folder=run"),
        f"--model.network.denoiser={tiny_denoiser}",
        f"--model.network.text_encoder={tiny_bert}",
        *("--data=Phantom", "--data.counts=[4,2,2]", "--data.image_size=32"),
        "--trainer.max_epochs=100000",
    ]
    process = subprocess.Popen(  # noqa: S603 - ours
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that were started in the background hand it down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        last = tmp_path / "run/last.ckpt"
        end = time.monotonic() + 300
        while not last.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == (
        "lcpdn: stopped. Go on with: lcpdn fit --ckpt_path run"
    )
    assert "Traceback" not in error
    assert torch.load(last, weights_only=True)["global_step"] > 0


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("subcommand", "said"),
    [
        ("validate", "lcpdn: stopped."),
        ("test", "lcpdn: stopped. Nothing was written."),
        ("predict", "lcpdn: stopped. The masks that were written are whole."),
    ],
)
def test_interrupted_use_of_a_run_is_one_line(
    subcommand: str,
    said: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = {"validate": "validation_step"}.get(subcommand, f"{subcommand}_step")
    monkeypatch.setattr(SegmentationTask, step, interrupt)
    with pytest.raises(SystemExit) as ended:
        main([subcommand, f"--ckpt_path={run / 'last.ckpt'}"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == said
    assert not (run / subcommand).exists()


def test_interrupted_imports_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loading(ModuleType):
        main = property(interrupt)

    monkeypatch.setitem(sys.modules, "lcpdn_pl.cli", Loading("lcpdn_pl.cli"))
    with pytest.raises(SystemExit) as ended:
        started()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "lcpdn: stopped.\n"
