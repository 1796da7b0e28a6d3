"""Slices of NIfTI volumes, written by nibabel."""

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)
from numpy.typing import NDArray

from lcpdn_pl.data.pictures import open_picture
from lcpdn_pl.errors import ConfigError, DataError

# Axes: to the patient's right, anterior, superior; all values differ.
VOLUME = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


def write(
    path: Path,
    volume: NDArray[np.generic],
    codes: str = "RAS",
    limits: tuple[float, float] = (0, 0),
) -> Path:
    """Stores a volume whose axes are R, A, S along other axes."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = apply_orientation(volume, change) if volume.ndim == 3 else volume
    affine = np.eye(4) @ inv_ornt_aff(change, volume.shape[:3]) if volume.ndim == 3 else np.eye(4)
    image = nibabel.Nifti1Image(stored, affine)
    image.header["cal_min"], image.header["cal_max"] = limits
    nibabel.save(image, path)
    return path


def grey(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    """Full range of VOLUME."""
    return np.rint(255 * np.clip(plane.astype(float) / 59, 0, 1))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PSR", "SRA", "AIL", "IPR"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_axial_slices_however_they_are_stored(tmp_path: Path, name: str, codes: str) -> None:
    path = write(tmp_path / name, VOLUME, codes, limits=(0, 59))
    picture = open_picture(path, slice=3)
    assert (picture.height, picture.width) == (4, 3)
    assert picture.note == "values 0 to 59 (the file's own range)"
    # Anterior is up, the patient's right is on the left: VOLUME's axes run to right and anterior.
    expected = np.array([[VOLUME[2 - x, 3 - y, 3] for x in range(3)] for y in range(4)])
    np.testing.assert_array_equal(picture.rows(0, 4)[..., 1], grey(expected))


def test_a_single_coronal_slice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", VOLUME[:, 1:2], "LPS", limits=(0, 59))
    picture = open_picture(path)
    expected = np.array([[VOLUME[2 - x, 1, 4 - z] for x in range(3)] for z in range(5)])
    np.testing.assert_array_equal(picture.rows(0, 5)[..., 0], grey(expected))


def test_flat_and_longer_shapes(tmp_path: Path) -> None:
    plane = VOLUME[..., 2]
    expected = grey(plane[::-1, ::-1].T)
    for name, volume in (("flat", plane), ("long", plane[..., None, None])):
        path = write(tmp_path / f"{name}.nii", volume, limits=(0, 59))
        np.testing.assert_array_equal(open_picture(path).rows(0, 4)[..., 0], expected)
    path = write(tmp_path / "time.nii", np.stack([VOLUME, VOLUME], axis=-1))
    with pytest.raises(
        DataError, match=r"time\.nii: expected .* three axes, found 4 axes of int16"
    ):
        open_picture(path)


def test_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    plane = VOLUME[..., 0][::-1, ::-1].T.astype(float)
    picture = open_picture(path, slice=0, window=(20, 10))
    np.testing.assert_array_equal(
        picture.rows(0, 4)[..., 0], np.rint(255 * np.clip((plane - 15) / 10, 0, 1))
    )
    picture = open_picture(path, slice=0)
    np.testing.assert_array_equal(picture.rows(0, 4)[..., 0], np.rint(255 * plane / 55))
    assert picture.note == "values from the smallest to the largest"


@pytest.mark.parametrize("limits", [(0, np.inf), (-np.inf, 59), (np.nan, 59)])
def test_own_ranges_that_are_none(tmp_path: Path, limits: tuple[float, float]) -> None:
    path = write(tmp_path / "a.nii", VOLUME, limits=limits)
    assert open_picture(path, slice=0).note == "values from the smallest to the largest"


@pytest.mark.parametrize("window", [(0, 0), (np.nan, 1), (0, np.inf)])
def test_windows_that_are_none(tmp_path: Path, window: tuple[float, float]) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    with pytest.raises(ConfigError, match=r"window=.*: expected a center and a width above 0"):
        open_picture(path, slice=0, window=window)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_affines_that_are_none(tmp_path: Path, number: float) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    content = bytearray(path.read_bytes())
    content[280:284] = np.array(number, "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii: expected "):
        open_picture(path, slice=0)


def test_volumes_need_a_slice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    with pytest.raises(ConfigError, match=r"a\.nii holds 5 slices. Choose one: --slice 0 to 4"):
        open_picture(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    torn = tmp_path / "torn.nii"
    torn.write_bytes(path.read_bytes()[:360])
    with pytest.raises(DataError, match=r"torn\.nii: its slice cannot be read"):
        open_picture(torn, slice=4).rows(0, 1)
    (tmp_path / "none.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none\.nii: expected a NIfTI volume, found none"):
        open_picture(tmp_path / "none.nii")
    broad = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    nibabel.save(broad, tmp_path / "bomb.nii")
    content = bytearray((tmp_path / "bomb.nii").read_bytes())
    content[42:46] = np.array([30_000, 30_000], "<i2").tobytes()
    (tmp_path / "bomb.nii").write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.nii: declares 30000 x 30000 pixels"):
        open_picture(tmp_path / "bomb.nii", slice=0)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match=r"a\.nii .* pip install nibabel"):
        open_picture(path)
