"""DICOM images."""

import zlib
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from lcpdn_pl.data.pictures.base import (
    FULL_RANGE,
    MAX_PIXELS,
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


_MOST_INFLATED = 4 * MAX_PIXELS
_INFLATED_AT_ONCE = 2**24


class _Deflated(BufferedReader):
    """A file whose end pydicom reads at once if it is deflated, and inflates to whatever it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads bytes; refuses a rest of the file that inflates to more than any image."""
        content = super().read(size)
        if size is None or size < 0:
            inflater, grown, left = zlib.decompressobj(-zlib.MAX_WBITS), 0, content
            while left and grown <= _MOST_INFLATED:
                grown += len(inflater.decompress(left, _INFLATED_AT_ONCE))
                left = inflater.unconsumed_tail
            if left:
                raise ValueError(f"it inflates to more than {_MOST_INFLATED >> 20} MiB")
        return content


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
        with _Deflated(FileIO(path)) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        frames = int(header.get("NumberOfFrames") or 1)
        height, width = int(header.Rows), int(header.Columns)
        photometric, bits = str(header.PhotometricInterpretation), int(header.BitsAllocated)
    except Exception as error:  # elements are parsed when asked for, and raise what they like
        raise DataError(
            f"{path}: expected a DICOM image, found none that can be read ({error}). Export it "
            "again."
        ) from error
    index = choose_slice(str(path), frames, slice)
    grey = photometric in _GREY
    if not grey and (not photometric.startswith(("RGB", "YBR")) or bits != 8):
        raise DataError(
            f"{path}: expected a grey picture or 8-bit RGB, found {photometric} with {bits} bits. "
            "Export it as PNG."
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
    try:
        stated = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
        if None in stated:
            return None
        center, width = (float(np.atleast_1d(value)[0]) for value in stated)
        shape = str(header.get("VOILUTFunction") or "LINEAR")
    except Exception as error:  # as above
        raise DataError(
            f"{path}: its own window cannot be read ({error}). Give one, such as "
            "--window '[40, 400]'."
        ) from error
    if shape not in _LINEAR or not np.isfinite([center, width]).all() or width <= 0:
        raise DataError(
            f"{path}: expected a linear window, found {shape} of center {center:g} and width "
            f"{width:g}. Give one, such as --window '[40, 400]'."
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
