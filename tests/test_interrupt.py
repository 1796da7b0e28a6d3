"""Ctrl-C ends a run in one line, and the run goes on from its last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

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
