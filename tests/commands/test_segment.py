"""``lcpdn segment`` on a tiny trained network."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import lcpdn_pl
from lcpdn_pl import rasters
from lcpdn_pl.cli import main
from lcpdn_pl.data.images import read_image
from lcpdn_pl.data.pictures import tiff
from lcpdn_pl.plotting import PREDICTION, overlay
from tests.conftest import TreeMaker
from tests.test_restore import TINY, run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory

KINDS = ("mask", "probability", "overlay")


def write_image(path: Path, height: int = 300, width: int = 70) -> Path:
    """Smooth colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (60, 14, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def segment(run: Path, *arguments: str) -> None:
    main(["segment", *arguments, "--report", "nuclei", "--ckpt", str(run / "last.ckpt")])


def refused(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error's message."""
    with pytest.raises(SystemExit):
        segment(run, *arguments)
    return capsys.readouterr().err


def read(path: Path) -> NDArray[Any]:
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_hold_what_the_segmenter_finds(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    monkeypatch.setattr(rasters, "BAND", 16)
    if suffix == ".tif":  # as for large images, in and out
        monkeypatch.setattr(rasters, "PNG_PIXELS", 0)
        monkeypatch.setattr(tiff, "LARGE", 0)
    path = write_image(Path(f"a{suffix}"))
    segment(run, str(path), "--tile", "40", "--out", "out")
    assert sorted(p.name for p in Path("out").iterdir()) == sorted(
        f"a_{kind}{suffix}" for kind in KINDS
    )
    found = lcpdn_pl.load(run / "last.ckpt").segment(path, "nuclei", tile=40)
    mask, probability, drawn = (read(Path("out", f"a_{kind}{suffix}")) for kind in KINDS)
    assert (str(mask.dtype), str(probability.dtype)) == ("uint8", "uint16")
    np.testing.assert_array_equal(mask, 255 * found.mask)
    np.testing.assert_allclose(probability / 65535, found.probability, atol=1e-5)
    image = read_image(path) / 255
    expected = overlay(image, found.mask.astype(bool), PREDICTION)
    np.testing.assert_array_equal(drawn, np.rint(255 * expected))
    assert 0 < found.mask.mean() < 1
    told = capsys.readouterr().out.replace("\n", " ")
    share = f"{100 * found.mask.mean():.1f} % foreground"
    assert f"a{suffix}: 300 x 70 pixels, 20 tiles of 40, 2.5 pixels to one" in told
    assert share in told


def test_taken_whole_by_default(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write_image(Path("in/a.png"), 60, 50), write_image(Path("in/b.scan.bmp"), 20, 30)
    segment(run, str(one), str(two))
    told = capsys.readouterr().out
    assert "60 x 50 pixels, taken whole, 3.75 pixels to one of the network's" in told
    assert {p.name for p in Path("segmented").iterdir()} == {
        f"{name}_{kind}.png" for name in ("a", "b.scan") for kind in KINDS
    }
    assert read(Path("segmented/b.scan_overlay.png")).shape == (20, 30, 3)


def test_nothing_is_replaced_without_force(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(write_image(Path(name), 20, 20)) for name in ("a.png", "b.png")]
    Path("out").mkdir()
    there = Path("out/b_overlay.png")
    there.write_text("precious")
    message = refused(run, capsys, *images, "--out", "out")
    assert "These files are there already: out/b_overlay.png. Give another --out" in message
    assert list(Path("out").iterdir()) == [there]
    segment(run, *images, "--out", "out", "--force")
    assert read(there).shape == (20, 20, 3)


def test_an_image_that_fails_leaves_nothing_of_its_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, torn = write_image(Path("a.png"), 20, 20), write_image(Path("b.png"), 20, 20)
    torn.write_bytes(torn.read_bytes()[:-40])
    assert "b.png" in refused(run, capsys, str(good), str(torn), "--out", "out")
    assert {p.name for p in Path("out").iterdir()} == {f"a_{kind}.png" for kind in KINDS}


def test_files_that_would_be_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write_image(Path("x/a.png"), 20, 20), write_image(Path("y/a.tif"), 20, 20)
    message = refused(run, capsys, str(one), str(two))
    assert "x/a.png and y/a.tif would be written to the same files" in message
    image, mask = write_image(Path("a.png"), 20, 20), write_image(Path("a_mask.png"), 20, 20)
    message = refused(run, capsys, str(image), str(mask), "--out", ".", "--force")
    assert "a_mask.png is an image to segment. Give another --out." in message
    assert "a_mask.png is a file; expected a folder" in refused(
        run, capsys, str(image), "--out", str(mask)
    )
    Path("out/a_overlay.png").mkdir(parents=True)
    assert "out/a_overlay.png is a folder; expected no such one. Give another --out." in refused(
        run, capsys, str(image), "--out", "out", "--force"
    )
    assert "x: expected an image, found a folder. Give its images: x/*" in refused(run, capsys, "x")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tile", "9"], "tile=9 must be 16 to 256 pixels"),
        (["--tile", "20", "--overlap", "0.7"], "overlap=0.7 must be a share"),
        (["--overlap", "0.5"], "overlap=0.5 is that of tiles: give tile too"),
        (["--samples", "3"], "samples=3 compares noises, but Pixels has none"),
        (["--slice", "3"], "slice is for DICOM and NIfTI"),
        (["--window", "[40, 400]"], "window is for DICOM and NIfTI"),
        ([], "300 x 70 pixels is too large to be taken whole (at most 256 a side"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    path = write_image(Path("a.png"))
    assert expected in refused(run, capsys, str(path), "--out", "out", *arguments)
    assert not Path("out").exists()


def test_disk_space_is_checked(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(Path("a.png"), 20, 20)
    usage = type("Usage", (), {"free": 20 * 20 * 8 - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "a.png: the results may need 0.0 GiB in out" in refused(
        run, capsys, "a.png", "--out=out"
    )
    usage.free += 1  # type: ignore[attr-defined]
    segment(run, str(path), "--out", "out")


def test_what_must_be_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_image(Path("a.png"), 20, 20))
    with pytest.raises(SystemExit):
        main(["segment", path, "--ckpt", str(run / "last.ckpt")])
    assert 'Give --report "..."' in capsys.readouterr().err


def test_the_shipped_network_is_what_is_used_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write_image(Path("a.png"), 60, 60))
    main(["segment", path, "--report", "purple nuclei"])
    assert "Network: nuclei in stained tissue, as shipped" in capsys.readouterr().out
    found = lcpdn_pl.load("nuclei").segment(path, "purple nuclei")
    assert np.array_equal(read(Path("segmented/a_mask.png")) // 255, found.mask)


def test_volumes(run: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(30, 20, 4))
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), "ct.nii.gz")
    segment(run, "ct.nii.gz", "--slice", "2", "--window", "[0, 2]", "--out", "out")
    assert read(Path("out/ct_slice2_mask.png")).shape == (20, 30)


def test_uncertainty(
    make_tree: TreeMaker,
    tiny_denoiser: str,
    tiny_bert: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--config={TINY}",
        f"--model.network.denoiser={tiny_denoiser}",
        f"--model.network.text_encoder={tiny_bert}",
        "--data=MoNuSeg",
        f"--data.root={make_tree(tmp_path / 'tree')}",
        "--data.protocol=full",
        "--data.image_size=16",
        "--run_folder=run",
    ]
    main(["fit", *arguments])
    path = write_image(Path("a.png"), 50, 40)
    segment(Path("run"), str(path), "--samples", "3", "--out", "out")
    found = lcpdn_pl.load("run/last.ckpt").segment(path, "nuclei", samples=3)
    assert found.uncertainty is not None
    stored = read(Path("out/a_uncertainty.png"))
    np.testing.assert_allclose(stored / 65535, found.uncertainty, atol=1e-5)
    assert stored.max() > 0
