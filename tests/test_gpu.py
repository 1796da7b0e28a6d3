"""What only a GPU shows: that methods run there, repeat themselves, and find what a CPU finds."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lcpdn_pl.cli import main
from tests.conftest import write_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

CONFIGS = Path(__file__).parents[1] / "configs"
METHODS = ["lcpdn", *sorted(path.stem for path in CONFIGS.glob("methods/*.yaml"))]
METHODS.remove("c2fvl")  # its attributes are not in the phantom's reports
NEEDS = {  # what a method asks for on the phantom, and what keeps MedSegDiff short
    "mgcc": ["--data.unlabelled=pool", "--data.image_size=128"],
    "medsegdiff": ["--model.network.steps=2", "--model.network.ensemble=1"],
    "medsegdiff_small": ["--model.network.steps=2", "--model.network.ensemble=1"],
    "reclmis": ["--model.network.max_tokens=10"],
}
# In MedSegDiff at full size attention adds its gradients in any order; torch warns of it.
REPEATING = [method for method in METHODS if method != "medsegdiff"]
SHORT = [
    *("--config", str(CONFIGS / "budget.yaml"), "--trainer.max_steps=4"),
    *("--trainer.val_check_interval=2", "--data.counts=[4,2,2]", "--data.batch_size=2"),
]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    shutil.rmtree(tmp_path)  # the checkpoints of all tests together are tens of GB


def fit(method: str, *args: str) -> list[str]:
    """The command that trains a method of the shipped configurations for four steps."""
    overlay = [] if method == "lcpdn" else ["--config", str(CONFIGS / f"methods/{method}.yaml")]
    config = ["--config", str(CONFIGS / "demo.yaml"), *overlay]
    return ["fit", *config, *SHORT, *NEEDS.get(method, []), "--run_folder=run", *args]


def figures(run: str, *args: str) -> pd.DataFrame:
    """Tests a run; its figures, image by image."""
    main(["test", f"--ckpt_path={run}/best.ckpt", *args])
    return pd.read_csv(f"{run}/test/phantom/per_image.csv").set_index("name")


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_trained_and_finds_what_it_finds_elsewhere(
    method: str, precision: str, tmp_path: Path
) -> None:
    write_images(tmp_path / "pool", 3)
    main(fit(method, f"--trainer.precision={precision}"))
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    there = figures("run", f"--trainer.precision={precision}")
    # The CPU is too slow to be asked more than once, in the precision that both have.
    other = "--trainer.accelerator=" + ("cpu" if precision == "32-true" else "gpu")
    full = figures("run", other, "--trainer.precision=32-true")
    dice = ["compat/dice", "native/dice"]
    tolerance = 0.5 if precision == "32-true" else 3.0
    np.testing.assert_allclose(100 * there[dice], 100 * full[dice], atol=tolerance)


@pytest.mark.parametrize("method", REPEATING)
def test_a_method_repeats_itself_where_it_is_asked_to(method: str, tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 3)
    ends = []
    for run in ("first", "again"):
        # Processes of their own: cuBLAS hears of it before its first product alone.
        command = fit(method, "--trainer.deterministic=warn", f"--run_folder={run}")
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-m", "lcpdn_pl", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ends.append(torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"])
    assert ends[0].keys() == ends[1].keys()
    other = [name for name, weight in ends[0].items() if not torch.equal(weight, ends[1][name])]
    assert not other, f"{len(other)} of {len(ends[0])} tensors differ: {other[:5]}"


def test_a_run_goes_on_on_another_device() -> None:
    main(fit("unet"))
    main(["fit", "--ckpt_path=run", "--trainer.max_steps=6", "--trainer.accelerator=cpu"])
    main(["fit", "--ckpt_path=run", "--trainer.max_steps=8"])
    assert torch.load("run/last.ckpt", weights_only=True)["global_step"] == 8


def test_a_folder_is_segmented_as_on_the_cpu(tmp_path: Path) -> None:
    main(fit("lcpdn", "--trainer.precision=32-true"))
    images = write_images(tmp_path / "images", 2, size=200)
    for device in ("cuda", "cpu"):
        main(
            [
                *("segment", *map(str, sorted(images.iterdir()))),
                *("--ckpt=run/best.ckpt", "--report=", f"--out={device}", f"--device={device}"),
            ]
        )
    masks = [
        np.stack([np.asarray(Image.open(path)) for path in sorted(Path(device).glob("*_mask.png"))])
        for device in ("cuda", "cpu")
    ]
    assert (masks[0] != masks[1]).mean() < 0.01
