"""DICOM images, written by pydicom."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from lcpdn_pl.data.pictures import open_picture
from lcpdn_pl.errors import ConfigError, DataError

STORED = np.array([[0, 24, 1024], [1064, 1424, 4000]], np.uint16)
HOUNSFIELD = STORED.astype(float) - 1024


def write(path: Path, pixels: NDArray[Any], **elements: object) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    colour = pixels.shape[-1] == 3 and pixels.dtype == np.uint8
    bits = 8 * pixels.dtype.itemsize
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    content = pixels.tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_ct(path: Path, **elements: object) -> Path:
    return write(path, STORED, RescaleSlope=1, RescaleIntercept=-1024, **elements)


def grey(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1))


def test_given_window_is_of_rescaled_values(tmp_path: Path) -> None:
    picture = open_picture(write_ct(tmp_path / "IM0001"), window=(40, 400))
    assert (picture.height, picture.width) == (2, 3)
    assert picture.note == "values -160 to 240 (given)"
    pixels = picture.rows(0, 2)
    np.testing.assert_array_equal(pixels[..., 0], grey(HOUNSFIELD, -160, 240))
    np.testing.assert_array_equal(pixels[..., 1], pixels[..., 2])


def test_own_window(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", WindowCenter=[40, 500], WindowWidth=[400, 2000])
    picture = open_picture(path)
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    expected = np.rint(255 * np.clip((HOUNSFIELD - 39.5) / 399 + 0.5, 0, 1))
    np.testing.assert_array_equal(picture.rows(0, 2)[..., 0], expected)
    assert picture.note == "values -160 to 239 (the file's own window)"
    exact = write_ct(
        tmp_path / "b.dcm", WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT"
    )
    assert open_picture(exact).note == "values -160 to 240 (the file's own window)"
    curved = write_ct(
        tmp_path / "c.dcm", WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"
    )
    with pytest.raises(DataError, match=r"c\.dcm: expected a linear window, found SIGMOID"):
        open_picture(curved)
    assert open_picture(curved, window=(40, 400)).rows(0, 1).shape == (1, 3, 3)
    emptied = write_ct(tmp_path / "d.dcm", WindowCenter=None, WindowWidth=None)
    assert open_picture(emptied).note == "values from the smallest to the largest"


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("center", "width", "message"),
    [(b"nan ", 400, "LINEAR of center nan"), (b"1234", 0, "width 0"), (b"x   ", 400, "be read")],
)
def test_own_windows_that_are_none(tmp_path: Path, center: bytes, width: int, message: str) -> None:
    path = write_ct(tmp_path / "a.dcm", WindowCenter="1234", WindowWidth=width)
    path.write_bytes(path.read_bytes().replace(b"1234", center))
    with pytest.raises(DataError, match=rf"a\.dcm: .*{message}.* Give one, such as --window"):
        open_picture(path)
    assert open_picture(path, window=(40, 400)).rows(0, 1).shape == (1, 3, 3)


def test_without_a_window_all_values(tmp_path: Path) -> None:
    picture = open_picture(write_ct(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(picture.rows(0, 2)[..., 0], grey(HOUNSFIELD, -1024, 2976))
    assert picture.note == "values from the smallest to the largest"


def test_white_is_white(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    pixels = open_picture(path, window=(40, 400)).rows(0, 2)
    np.testing.assert_array_equal(pixels[..., 0], 255 - grey(HOUNSFIELD, -160, 240))


def test_colour(tmp_path: Path) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    path = write(tmp_path / "a.dcm", pixels)
    np.testing.assert_array_equal(open_picture(path).rows(0, 2), pixels)
    with pytest.raises(ConfigError, match=r"window is for grey values, but .*a\.dcm is RGB"):
        open_picture(path, window=(40, 400))


def test_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.stack([STORED, STORED[::-1]]), NumberOfFrames=2)
    with pytest.raises(ConfigError, match=r"a\.dcm holds 2 slices. Choose one: --slice 0 to 1"):
        open_picture(path)
    np.testing.assert_array_equal(
        open_picture(path, slice=1).rows(0, 2)[..., 0], grey(STORED[::-1].astype(float), 0, 4000)
    )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(DataError, match=r"a\.dcm: expected a DICOM image, found none"):
        open_picture(tmp_path / "a.dcm")
    path = write(tmp_path / "b.dcm", STORED, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(DataError, match=r"b\.dcm: expected a grey picture .* PALETTE COLOR"):
        open_picture(path)
    path = write(tmp_path / "c.dcm", STORED, Rows=30_000, Columns=30_000)
    with pytest.raises(DataError, match=r"c\.dcm: declares 30000 x 30000 pixels"):
        open_picture(path)
    path = write(tmp_path / "e.dcm", STORED, Rows=[2, 2])
    with pytest.raises(DataError, match=r"e\.dcm: expected a DICOM image, found none"):
        open_picture(path)
    path = write(tmp_path / "d.dcm", STORED, Rows=300)
    with pytest.raises(DataError, match=r"d\.dcm: its pixels cannot be decoded"):
        open_picture(path).rows(0, 1)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ct(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"a\.dcm .* pip install 'lcpdn_pl\[dicom\]'"):
        open_picture(path)
