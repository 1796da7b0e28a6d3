"""The machine fails in the middle of a run: one message, and nothing is lost."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.backbones.weights import save_denoiser
from lcpdn_pl.cli import main
from lcpdn_pl.data.dataset import SegmentationDataset
from lcpdn_pl.explain import explain
from lcpdn_pl.files import save_figure, write_whole

RUN = [
    *("--model=SegmentationTask", "--model.network=UNet", "--model.network.widths=[32,64]"),
    *("--data=Phantom", "--data.counts=[3,2,2]", "--data.image_size=32"),
]


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file can become larger than ``free`` bytes; the system refuses to write more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[Path, bytes]:
    """What must not be lost: all but the curves, and what says how long the run was to be."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "tfevents" not in path.name and path.name != "config.yaml"
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one epoch; its data lie in the same folder."""
    monkeypatch.chdir(tmp_path)
    main(["fit", *RUN, "--run_folder=run", "--trainer.max_epochs=1"])
    return tmp_path / "run"


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_full_disk_leaves_what_was_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    with full_disk(600_000):  # more than the curves, less than a checkpoint
        error = complaint(capsys, "fit", "--ckpt_path=run", "--trainer.max_epochs=2")
    assert "best.ckpt could not be written: File too large. What was there before is" in error
    assert "lcpdn fit --ckpt_path RUN_FOLDER" in error
    assert contents(run) == before
    main(["fit", "--ckpt_path=run", "--trainer.max_epochs=2"])
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 6


def test_full_disk_leaves_no_half_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    for command in ("test", "predict"):
        with full_disk(20_000):  # less than an overlay sheet
            error = complaint(capsys, command, "--ckpt_path=run")
        assert "overlay.png could not be written: File too large" in error
        after = contents(run)
        assert before.items() <= after.items()
        assert not [path for path in after if path.suffix == ".partial" or "overlay" in path.name]


def test_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, "before")
    figure = plt.figure()
    save_figure(figure, tmp_path / "figure.png")
    before = contents(tmp_path)
    with full_disk(100):
        with pytest.raises(OSError, match="File too large") as ended:
            write_whole(path, "a" * 200)
        assert ended.value.filename == str(path)
        with pytest.raises(OSError, match="File too large"):
            save_figure(figure, tmp_path / "figure.png")
    assert contents(tmp_path) == before
    plt.close(figure)


def test_full_disk_costs_the_cache_its_entry_alone(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 1.0)
    maps = [torch.arange(4096.0).view(1, 4, 32, 32)]
    with full_disk(1000):
        store.write("a" * 64, maps)
    assert not list(tmp_path.iterdir())
    assert store.read("a" * 64) is None
    store.write("a" * 64, maps)
    found = store.read("a" * 64)
    assert found is not None
    assert torch.equal(found[0], maps[0])


@pytest.mark.parametrize(
    ("free", "name"),
    [(20_000, "diffusion_pytorch_model.safetensors"), (100, "config.json")],
)
def test_full_disk_leaves_the_denoiser_before(
    free: int, name: str, tiny_denoiser: str, tmp_path: Path
) -> None:
    unet = UNet2DModel.from_pretrained(tiny_denoiser)
    folder = tmp_path / "denoiser"
    save_denoiser(unet, folder, {"README.md": "before"})
    before = contents(tmp_path)
    with full_disk(free), pytest.raises(Exception, match="File too large") as ended:
        save_denoiser(unet, folder, {"README.md": "after"})
    said = f"{folder / name} could not be written: File too large. What was there before is whole"
    assert said in str(explain(ended.value))
    assert contents(tmp_path) == before


def test_a_mask_is_kept_whatever_its_image_is_called(run: Path) -> None:
    names = ("overlay", "sheet", "uncertainty")
    for name in names:
        Image.new("RGB", (50, 40), (200, 100, 50)).save(f"{name}.png")
    rows = [f"{name}.png,,One.,predict\n" for name in names]
    Path("own.csv").write_text("".join(["image,mask,text,split\n", *rows]))
    main(["predict", f"--ckpt_path={run}", "--data=Manifest", "--data.root=own.csv"])
    folder = run / "predict" / "own"
    for name in names:
        with Image.open(folder / f"{name}.png") as mask:
            assert (mask.mode, mask.size) == ("L", (50, 40))
    with Image.open(folder / "sheet" / "overlay.png") as sheet:
        assert sheet.width > 100


@pytest.mark.parametrize("change", ["vanished", "changed"])
def test_images_that_do_not_stay_end_the_run(
    change: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (image,) = Path("data").rglob("Train_Folder/img/*_0001_*.png")
    read = SegmentationDataset.__getitem__
    reads = 0

    def disturbed(self: SegmentationDataset, draw: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 8:
            image.unlink() if change == "vanished" else image.write_bytes(b"other")
        return read(self, draw)

    before = contents(run)
    monkeypatch.setattr(SegmentationDataset, "__getitem__", disturbed)
    error = complaint(capsys, "fit", "--ckpt_path=run", "--trainer.max_epochs=9")
    wanted = {"vanished": "found no such file", "changed": "has changed since the run began"}
    assert wanted[change] in error
    assert image.name in error
    assert contents(run).keys() == before.keys()
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] > 3


def test_a_killed_loader_process_is_one_message(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = SegmentationDataset.__getitem__
    parent = os.getpid()

    def killed(self: SegmentationDataset, draw: Any) -> Any:
        if os.getpid() != parent and isinstance(draw, tuple):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, draw)

    before = contents(run)
    monkeypatch.setattr(SegmentationDataset, "__getitem__", killed)
    command = ["fit", "--ckpt_path=run", "--trainer.max_epochs=2", "--data.num_workers=1"]
    error = complaint(capsys, *command)
    assert "a loader process was ended from outside" in error
    assert contents(run) == before
