"""DICOM images, written by pydicom."""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

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


def compress(path: Path, syntax: str, frames: list[bytes]) -> Path:
    """Exchanges the pixels of a file for compressed frames."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.add_new("PixelData", "OB", encapsulate(frames))
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**elements: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def rescaling(intercept: float, slope: float = 1) -> pydicom.Dataset:
    """A functional group of enhanced files."""
    values = item(RescaleIntercept=intercept, RescaleSlope=slope, RescaleType="HU")
    return item(PixelValueTransformationSequence=[values])


def windowing(center: float, width: float) -> pydicom.Dataset:
    """A functional group of enhanced files."""
    return item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=width)])


def merged(*groups: pydicom.Dataset) -> pydicom.Dataset:
    return item(**{element.keyword: element.value for group in groups for element in group})


def picture_bytes(pixels: NDArray[Any], format: str, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


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


@pytest.mark.parametrize("window", [None, (40.0, 400.0)])
@pytest.mark.parametrize("kept", ["SharedFunctionalGroupsSequence", "per frame"])
@pytest.mark.parametrize("stated", [(), (windowing(-500, 1500),)], ids=["no window", "window"])
def test_enhanced_files_are_as_classic_ones(
    tmp_path: Path,
    kept: str,
    stated: tuple[pydicom.Dataset, ...],
    window: tuple[float, float] | None,
) -> None:
    own = {"WindowCenter": -500, "WindowWidth": 1500} if stated else {}
    classic = open_picture(write_ct(tmp_path / "classic.dcm", **own), window=window)
    kept = kept if kept.startswith("Shared") else "PerFrameFunctionalGroupsSequence"
    groups = {kept: [merged(rescaling(-1024), *stated)]}
    enhanced = open_picture(write(tmp_path / "enhanced.dcm", STORED, **groups), window=window)
    assert enhanced.note == classic.note
    np.testing.assert_array_equal(enhanced.rows(0, 2), classic.rows(0, 2))
    limits = (-160, 240) if window else (-1250, 249) if stated else (-1024, 2976)
    np.testing.assert_array_equal(enhanced.rows(0, 2)[..., 0], grey(HOUNSFIELD, *limits))


def test_each_frame_has_values_of_its_own(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.dcm",
        np.stack([STORED] * 3),
        NumberOfFrames=3,
        RescaleIntercept=7,
        RescaleSlope=7,
        WindowCenter=7,
        WindowWidth=7,
        PerFrameFunctionalGroupsSequence=[
            merged(rescaling(-1024), windowing(0, 2001)),
            merged(rescaling(-10, slope=0.5)),
            pydicom.Dataset(),
        ],
        SharedFunctionalGroupsSequence=[merged(rescaling(100, slope=2), windowing(1000, 2001))],
    )
    stored = STORED.astype(float)
    for index, values, low, high in (
        (0, stored - 1024, -1000.5, 999.5),
        (1, stored / 2 - 10, -0.5, 1999.5),  # its own scale, the window that all share
        (2, 2 * stored + 100, -0.5, 1999.5),
    ):
        picture = open_picture(path, slice=index)
        assert picture.note == f"values {low:g} to {high:g} (the file's own window)"
        np.testing.assert_array_equal(picture.rows(0, 2)[..., 0], grey(values, low, high))
        given = open_picture(path, slice=index, window=(500, 1000))
        np.testing.assert_array_equal(given.rows(0, 2)[..., 0], grey(values, 0, 1000))


def test_enhanced_files_that_leave_it_to_the_header(tmp_path: Path) -> None:
    path = write_ct(
        tmp_path / "a.dcm",
        WindowCenter=40,
        WindowWidth=401,
        PerFrameFunctionalGroupsSequence=[item(FrameVOILUTSequence=[])],
        SharedFunctionalGroupsSequence=[],
    )
    picture = open_picture(path)
    assert picture.note == "values -160.5 to 239.5 (the file's own window)"
    np.testing.assert_array_equal(picture.rows(0, 2)[..., 0], grey(HOUNSFIELD, -160.5, 239.5))


COLOUR = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize("bare", [True, False], ids=["codestream", "JP2"])
@pytest.mark.parametrize(
    ("pixels", "photometric"),
    [(COLOUR, "YBR_RCT"), (COLOUR[..., 0], "MONOCHROME2"), (STORED, "MONOCHROME2")],
    ids=["colour", "grey", "deep"],
)
def test_jpeg_2000(tmp_path: Path, pixels: NDArray[Any], photometric: str, bare: bool) -> None:
    path = write(tmp_path / "a.dcm", pixels, PhotometricInterpretation=photometric)
    frame = picture_bytes(pixels, "JPEG2000", no_jp2=bare)
    assert frame.startswith(b"\xff\x4f" if bare else b"\0\0\0\x0cjP")
    compress(path, JPEG2000Lossless, [frame])
    window = None if pixels is COLOUR else (500.0, 1000.0)
    found = open_picture(path, window=window).rows(0, len(pixels))
    if pixels is COLOUR:
        np.testing.assert_array_equal(found, pixels)
    else:
        np.testing.assert_array_equal(found[..., 0], grey(pixels.astype(float), 0, 1000))


def test_the_chosen_frame_is_decompressed(tmp_path: Path) -> None:
    shades = np.array([40, 200], np.uint8)
    frames = [picture_bytes(np.full((20, 31), shade, np.uint8), "JPEG") for shade in shades]
    path = write(tmp_path / "a.dcm", np.zeros((2, 20, 31), np.uint8), NumberOfFrames=2)
    compress(path, JPEGBaseline8Bit, frames)
    for index, shade in enumerate(shades):
        pixels = open_picture(path, slice=index, window=(127.5, 255)).rows(0, 20)
        np.testing.assert_array_equal(pixels, np.full((20, 31, 3), shade))


@pytest.mark.parametrize("pixels", [COLOUR, STORED], ids=["colour", "deep"])
def test_rle(tmp_path: Path, pixels: NDArray[Any]) -> None:
    path = write(tmp_path / "a.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    found = open_picture(path).rows(0, len(pixels))
    if pixels is COLOUR:
        np.testing.assert_array_equal(found, pixels)
    else:
        np.testing.assert_array_equal(found[..., 0], grey(STORED.astype(float), 0, 4000))


def test_deflated(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    pixels = open_picture(path).rows(0, 2)
    np.testing.assert_array_equal(pixels[..., 0], grey(HOUNSFIELD, -1024, 2976))


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
    with pytest.raises(ConfigError, match=r"a\.dcm .* pip install pydicom"):
        open_picture(path)
