"""The same seed on the same machine ends in the same bits, in any process, with any workers."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

TINY = Path(__file__).parent / "configs" / "tiny.yaml"
NETWORKS = ("lcpdn", "unet")

# What runs in one interpreter, whose imports take longest: the seed of its hashes, on which the
# order of a set depends, and names of runs with their numbers of loader workers.
_PROCESSES = ((1, {"first": 0}), (2, {"again": 0, "workers": 2}))
_EACH = "import sys; from lcpdn_pl.cli import main; [main(c.split('\\n')) for c in sys.argv[1:]]"


@pytest.fixture(scope="module")
def runs(tiny_denoiser: str, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders ``<run>/<network>`` of LCPDN and of a U-Net with dropout, trained and tested."""
    root = tmp_path_factory.mktemp("runs")
    shared = [
        *("--data=Phantom", "--data.counts=[3,2,2]", "--data.image_size=32"),
        *("--data.batch_size=2", f"--data.root={root / 'data'}", "--trainer.max_epochs=2"),
        *("--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"),
    ]
    given = {
        "lcpdn": [
            *("--config", str(TINY), f"--model.network.denoiser={tiny_denoiser}"),
            f"--model.network.text_encoder={tiny_bert}",
        ],
        "unet": [
            *("--model=SegmentationTask", "--model.network=UNet", "--model.network.widths=[4,8]"),
            *("--model.network.dropout=0.5", "--model.optimizer=Adam", "--model.optimizer.lr=1e-2"),
        ],
    }
    for hash_seed, workers in _PROCESSES:
        commands = []
        for run, network in product(workers, NETWORKS):
            folder = root / run / network
            own = [f"--run_folder={folder}", f"--trainer.logger.save_dir={folder}"]
            own.append(f"--data.num_workers={workers[run]}")
            commands.append(["fit", *given[network], *shared, *own])
            commands.append(["test", f"--ckpt_path={folder / 'best.ckpt'}"])
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", _EACH, *map("\n".join, commands)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.mark.parametrize("other", ["again", "workers"])
@pytest.mark.parametrize("network", NETWORKS)
def test_figures_and_weights_are_the_same(runs: Path, network: str, other: str) -> None:
    wanted, found = runs / "first" / network, runs / other / network
    curve = Path("lightning_logs", "version_0", "metrics.csv")  # of training and validation
    tests = [Path("test", "phantom", name) for name in ("metrics.csv", "per_image.csv")]
    assert "val/dice" in (wanted / curve).read_text()
    for table in (curve, *tests):
        assert (found / table).read_bytes() == (wanted / table).read_bytes(), table
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(folder / name, weights_only=True)["state_dict"] for folder in (found, wanted)
        )
        assert ours.keys() == theirs.keys()
        for key, weight in theirs.items():
            assert torch.equal(ours[key], weight), key
