"""Ctrl-C ends a run in one line, and the run goes on from its last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch

from lcpdn_pl.__main__ import main as started
from lcpdn_pl.cli import main
from lcpdn_pl.tasks import SegmentationTask
from tests.test_restore import run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory

TINY = Path(__file__).parent / "configs" / "tiny.yaml"


# A terminal's Ctrl-C goes to the whole group, and so to the loader processes.
@pytest.mark.parametrize(("workers", "send"), [(0, os.kill), (2, os.killpg)])
def test_interrupted_fit_says_how_to_go_on(
    workers: int,
    send: Callable[[int, int], None],
    tiny_denoiser: str,
    tiny_bert: str,
    tmp_path: Path,
) -> None:
    command = [
        *(sys.executable, "-m", "lcpdn_pl", "fit", "--config", str(TINY), "--run_folder=run"),
        f"--model.network.denoiser={tiny_denoiser}",
        f"--model.network.text_encoder={tiny_bert}",
        *("--data=Phantom", "--data.counts=[4,2,2]", "--data.image_size=32"),
        *("--trainer.max_epochs=100000", f"--data.num_workers={workers}"),
    ]
    process = subprocess.Popen(  # noqa: S603 - ours
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that were started in the background hand it down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        last = tmp_path / "run/last.ckpt"
        end = time.monotonic() + 300
        while not last.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        before = time.time_ns()
        send(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == (
        "lcpdn: stopped. Go on with: lcpdn fit --ckpt_path run"
    )
    assert "Traceback" not in error
    assert error.count("Stopping after this step, and its validation if it has one; Ctrl-C ") == 1
    assert last.stat().st_mtime_ns > before
    assert torch.load(last, weights_only=True)["global_step"] > 0


def test_fit_that_is_interrupted_in_its_last_validation_is_whole_but_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    step = SegmentationTask.validation_step

    def stopped(self: SegmentationTask, batch: Any, batch_index: int) -> torch.Tensor:
        if self.global_step == 6 and batch_index == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(SegmentationTask, "validation_step", stopped)
    fit = [
        *("fit", "--model=SegmentationTask", "--model.network=UNet", "--model.network.widths=[4]"),
        *("--data=Phantom", "--data.counts=[3,2,2]", "--data.image_size=32"),
        *("--trainer.max_epochs=2", "--run_folder=run"),
    ]
    # As tests.conftest.interruptible, but Lightning ignores Ctrl-C once it has ended such a run.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            main(fit)
        assert ended.value.code == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = "lcpdn: stopped. Go on with: lcpdn fit --ckpt_path run"
    assert capsys.readouterr().err.strip().splitlines()[-1] == said
    weights = torch.load("run/last.ckpt", weights_only=True)
    assert weights["global_step"] == 6
    assert torch.load("run/best.ckpt", weights_only=True)["global_step"] in (3, 6)
    monkeypatch.setattr(SegmentationTask, "validation_step", step)
    main(["fit", "--ckpt_path=run"])  # as it says, though nothing is left to do
    assert "Best checkpoint: run/best.ckpt" in capsys.readouterr().out
    for name, value in torch.load("run/last.ckpt", weights_only=True)["state_dict"].items():
        assert torch.equal(value, weights["state_dict"][name])


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
