"""DICOM images."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lcpdn_pl.data.pictures.base import (
    FULL_RANGE,
    DecodedPicture,
    Picture,
    Pixels,
    Range,
    choose_slice,
    to_rgb,
)
from lcpdn_pl.errors import ConfigError, DataError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_LINEAR = ("LINEAR", "LINEAR_EXACT")


def is_dicom(path: Path) -> bool:
    """Whether a file's content or name says so."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def open_dicom(path: Path, slice: int | None, window: tuple[float, float] | None) -> Picture:
    """Opens a DICOM image; arguments as of :func:`lcpdn_pl.data.pictures.open_picture`.

    Grey values are rescaled as the file says (of a CT to Hounsfield units) before the range is
    taken: ``window``, or the file's first window, or all of them. MONOCHROME1 is turned round, so
    that white is white. Overlays and lookup tables of values of interest are not applied.

    Raises:
        DataError: If it is unreadable, too large, or neither grey nor RGB.
        ConfigError: If pydicom is missing, or the slice does not exist.
    """
    pydicom = _pydicom(path)
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        frames = int(header.get("NumberOfFrames") or 1)
        height, width = int(header.Rows), int(header.Columns)
        photometric = str(header.PhotometricInterpretation)
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: expected a DICOM image, found none that can be read ({error}). Export it "
            "again."
        ) from error
    index = choose_slice(str(path), frames, slice)
    grey = photometric in _GREY
    if not grey and (not photometric.startswith(("RGB", "YBR")) or header.BitsAllocated != 8):
        raise DataError(
            f"{path}: expected a grey picture or 8-bit RGB, found {photometric} with "
            f"{header.BitsAllocated} bits. Export it as PNG."
        )
    if window is not None and not grey:
        raise ConfigError(f"window is for grey values, but {path} is {photometric}. Leave it out.")
    limits = Range.of(window) if window else _own_range(path, header) if grey else None
    note = (limits.note if limits else FULL_RANGE) if grey else ""
    decode = partial(_decode, path, index, grey, limits)
    return DecodedPicture(str(path), height, width, decode, note)


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ConfigError(
            f"{path} is a DICOM file, which needs pydicom. Install it: pip install "
            "'lcpdn_pl[dicom]'."
        ) from error
    return pydicom


def _own_range(path: Path, header: Any) -> Range | None:
    """The file's first window, if it has one (DICOM PS3.3, C.11.2.1.2)."""
    if "WindowCenter" not in header or "WindowWidth" not in header:
        return None
    shape = str(header.get("VOILUTFunction") or "LINEAR")
    if shape not in _LINEAR:
        raise DataError(
            f"{path}: expected a linear window, found {shape}. Give one, such as "
            "--window '[40, 400]'."
        )
    center, width = (
        float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth")
    )
    # Of a LINEAR window of width w the first and last value are w - 1 apart.
    return Range(
        center - width / 2, center + width / 2 - (shape == "LINEAR"), "the file's own window"
    )


def _decode(path: Path, index: int, grey: bool, limits: Range | None) -> Pixels:
    pydicom = _pydicom(path)
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        values = pydicom.pixels.pixel_array(path, index=index)
        if not grey:
            return np.asarray(values, np.uint8)
        values = pydicom.pixels.apply_modality_lut(values, dataset)
    except Exception as error:  # codecs raise what they like
        raise DataError(
            f"{path}: its pixels cannot be decoded ({error}). Export it uncompressed, or install "
            "what pydicom needs for its compression."
        ) from error
    pixels = to_rgb(values, limits)
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels
