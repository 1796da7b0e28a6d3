"""Two processes that train and test together do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

TINY = Path(__file__).parent / "configs" / "tiny.yaml"
TOGETHER = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")


def lcpdn(folder: Path, *args: str) -> str:
    """Runs the command line in processes of their own."""
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-m", "lcpdn_pl", *args],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # processes that wait for each other do so for ever
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The first process fails at its third step, when the second one waits for its gradients.
FAILS = """
import sys
from lcpdn_pl.cli import main
from lcpdn_pl.errors import RunError
from lcpdn_pl.tasks import SegmentationTask

step = SegmentationTask.training_step

def fails(self, batch, index):
    if self.global_rank == 0 and self.global_step == 2:
        raise RunError("failed on purpose")
    return step(self, batch, index)

SegmentationTask.training_step = fails
main(sys.argv[1:])
"""


@pytest.fixture
def fit(tiny_denoiser: str, tiny_bert: str) -> list[str]:
    return [
        "fit",
        "--config",
        str(TINY),
        f"--model.network.denoiser={tiny_denoiser}",
        f"--model.network.text_encoder={tiny_bert}",
        "--data=Phantom",
        "--data.counts=[6,3,5]",
        "--data.image_size=32",
        "--data.augment=none",
        "--trainer.max_epochs=2",
        # A mean over images. DiceCELoss pools a batch, and so each process's share of it.
        "--model.loss=DiceBCELoss",
        "--model.loss.balanced=false",
        "--model.calibrate=true",
        # Adam makes whole steps of gradients that are nothing but rounding.
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0.1",
    ]


def test_two_processes_end_where_one_does(fit: list[str], tmp_path: Path) -> None:
    lcpdn(tmp_path, *fit, "--data.batch_size=2", "--run_folder=one")
    lcpdn(tmp_path, *fit, "--data.batch_size=1", *TOGETHER)
    (run,) = tmp_path.glob("runs/phantom/lcpdn/*")  # both processes are in one folder
    one, two = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "one", run)
    )
    assert one["global_step"] == two["global_step"] == 6
    assert one["threshold"] == two["threshold"]
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, atol=1e-5, rtol=1e-4)
    printed = lcpdn(tmp_path, "test", f"--ckpt_path={run / 'best.ckpt'}")
    assert printed.count("mask rule") == 1
    lcpdn(tmp_path, "test", "--ckpt_path=one/best.ckpt")
    tests = [folder / "test/phantom" for folder in (tmp_path / "one", run)]
    first, second = (pd.read_csv(test / "per_image.csv") for test in tests)
    assert second["name"].tolist() == first["name"].tolist()  # each once, in order
    assert len(second) == 5
    numbers = [column for column in first if column != "name"]
    np.testing.assert_allclose(second[numbers], first[numbers], atol=0.01)
    metrics = pd.read_csv(tests[1] / "metrics.csv").set_index("mask rule")
    mean = 100 * second["native/dice"].mean()
    assert metrics.loc["native", "dice"] == pytest.approx(mean, abs=1e-3)
    pixels = [pd.read_csv(test / "reliability.csv")["pixels"].sum() for test in tests]
    assert pixels == [5 * 32 * 32] * 2


def test_no_process_waits_for_one_that_failed(fit: list[str], tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "fails.py", *fit, "--data.batch_size=1", *TOGETHER],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,  # ends with the last process that could print
    )
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("lcpdn: failed on purpose")  # the other one says nothing
