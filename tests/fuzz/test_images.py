"""Images and masks, damaged: what training reads, and what `lcpdn segment` reads besides."""

import gzip
import io
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import Image

from lcpdn_pl.data.images import read_image, read_kind, read_mask, read_size
from lcpdn_pl.data.pictures import Picture, open_picture, tiff
from tests.data.pictures import test_dicom, test_nifti
from tests.fuzz.mutations import Content, cases, damaged, damaged_png, outcome

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of what is odd in files

COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
GREY = COLOUR.convert("L")
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
MASK = GREY.point([0] * 100 + [1] * 150 + [7] * 6)
PAINTED = MASK.copy()
PAINTED.putpalette([0, 0, 0, 255, 0, 0])
TURNED = Image.Exif()
TURNED[274] = 6


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return Content(file.getvalue())


def tiled(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.asarray(pixels), **options)
    return Content(file.getvalue())


PNG = [
    saved(COLOUR, "PNG", exif=TURNED),
    saved(COLOUR.quantize(8), "PNG", transparency=3),
    saved(DEEP, "PNG"),
    saved(GREY.convert("1"), "PNG"),
    saved(COLOUR.convert("RGBA"), "PNG"),
]
TIFF = [
    saved(COLOUR, "TIFF", exif=TURNED),
    saved(DEEP, "TIFF"),
    saved(GREY.convert("1"), "TIFF", compression="group4"),
    saved(COLOUR.quantize(8), "TIFF", compression="packbits"),
    saved(COLOUR.convert("CMYK"), "TIFF", compression="tiff_lzw"),
    saved(COLOUR, "TIFF", compression="jpeg"),
]
MASKS = [saved(MASK, "PNG"), saved(PAINTED, "PNG")]
OTHERS = {
    "JPEG": [
        saved(COLOUR, "JPEG", exif=TURNED),
        saved(COLOUR.convert("CMYK"), "JPEG", progressive=True),
        saved(GREY, "JPEG", quality=30),
    ],
    "BMP": [saved(COLOUR, "BMP"), saved(GREY, "BMP"), saved(GREY.convert("1"), "BMP")],
    "TIFF": TIFF,
}
NUMBERS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
TEXTS = (
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept"),
    "PhotometricInterpretation",
)
ODD_NUMBERS = (None, 0, 1, 2, 3, 7, 8, 16, 32, 65535)
ODD_ELEMENT_TEXTS: tuple[str | list[str] | None, ...] = (
    *(None, "", "0", "-1", "nan", "inf", "1e308", "-0", "x", [], ["1", "2"], ["nan", ""]),
    *("LINEAR_EXACT", "SIGMOID", "MONOCHROME1", "RGB", "YBR_FULL", "PALETTE COLOR"),
)
LARGE = [
    tiled(COLOUR, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True),
    tiled(COLOUR, photometric="rgb", rowsperstrip=4),
    tiled(DEEP, bigtiff=True, rowsperstrip=2, compression="zlib"),
    tiled(GREY, byteorder=">", tile=(16, 16)),
]


def damaged_ones(contents: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of([damaged(content) for content in contents])


def check_image(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    outcome(lambda: read_kind(file))
    size, pixels = outcome(lambda: read_size(file)), outcome(lambda: read_image(file))
    if pixels is not None:
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*(size or ()), 3)
    mask = outcome(lambda: read_mask(file, (1, 255), ignore=7))
    if mask is not None:
        assert mask.dtype == np.uint8
        assert mask.shape == size
        assert set(np.unique(mask)) <= {0, 1, 255}


def check_picture(file: Path, content: bytes, slice: int | None = None) -> None:
    file.write_bytes(content)
    picture = outcome(lambda: open_picture(file, slice))
    if picture is None:
        return
    assert isinstance(picture, Picture)
    top = picture.height // 2
    bottom = min(top + 3, picture.height)
    rows = outcome(lambda: picture.rows(top, bottom))
    if rows is not None:
        assert rows.dtype == np.uint8
        assert rows.shape == (bottom - top, picture.width, 3)


@cases(150)
@given(st.one_of([*map(damaged_png, PNG), damaged_ones(PNG)]))
def test_png(folder: Path, content: bytes) -> None:
    check_image(folder / "a.png", content)


@pytest.mark.parametrize("format", OTHERS)
@cases(100)
@given(st.data())
def test_other_formats(folder: Path, format: str, data: st.DataObject) -> None:
    check_image(folder / "a", data.draw(damaged_ones(OTHERS[format])))


@cases(100)
@given(st.one_of([damaged_png(mask) for mask in MASKS]))
def test_masks(folder: Path, content: bytes) -> None:
    check_image(folder / "mask.png", content)


@cases(100)
@given(damaged_ones([*LARGE, *TIFF]))
def test_tiff_by_parts(folder: Path, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff, "LARGE", 0)
        check_picture(folder / "a.tif", content)


def dicom_files() -> list[bytes]:
    with TemporaryDirectory() as folder:
        file = Path(folder, "a.dcm")
        window = {"WindowCenter": [40, 500], "WindowWidth": [400, 2000], "VOILUTFunction": "LINEAR"}
        return [
            Content(path.read_bytes())
            for path in (
                test_dicom.write_ct(file, **window),
                test_dicom.write(file, np.asarray(COLOUR)),
                test_dicom.write(file, np.stack([np.asarray(GREY)] * 2), NumberOfFrames=2),
            )
        ]


def nifti_files() -> list[bytes]:
    with TemporaryDirectory() as folder:
        file = Path(folder, "a.nii")
        return [
            Content(path.read_bytes())
            for path in (
                test_nifti.write(file, test_nifti.VOLUME, "LPS", (0, 59)),
                test_nifti.write(file, test_nifti.VOLUME[..., None].astype(np.float32)),
            )
        ]


@cases(100)
@given(damaged_ones(dicom_files()), st.sampled_from((None, 0, 1)))
def test_dicom_images(folder: Path, content: bytes, slice: int | None) -> None:
    check_picture(folder / "a.dcm", content, slice)


@cases(100)
@given(
    st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from(ODD_NUMBERS), max_size=2),
    st.dictionaries(st.sampled_from(TEXTS), st.sampled_from(ODD_ELEMENT_TEXTS), max_size=2),
)
def test_dicom_images_with_odd_elements(
    folder: Path, numbers: dict[str, object], texts: dict[str, object]
) -> None:
    file = folder / "a.dcm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
        try:
            test_dicom.write_ct(file, **numbers, **texts)
        except Exception:  # what pydicom cannot write is no file
            reject()
    check_picture(file, Content(file.read_bytes()))


@cases(100)
@given(damaged_ones(nifti_files()), st.sampled_from((None, 0, 2)))
def test_nifti_volumes(folder: Path, content: bytes, slice: int | None) -> None:
    check_picture(folder / "a.nii", content, slice)
    check_picture(folder / "a.nii.gz", gzip.compress(content, 1), slice)


@cases(50)
@given(damaged_ones(map(gzip.compress, nifti_files())))
def test_compressed_nifti_volumes(folder: Path, content: bytes) -> None:
    check_picture(folder / "a.nii.gz", content, 1)
