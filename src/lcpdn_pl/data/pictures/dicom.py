"""DICOM images."""

import zlib
from functools import partial
from io import SEEK_CUR, BufferedReader, BytesIO, FileIO
from itertools import pairwise
from pathlib import Path
from struct import unpack_from
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
from lcpdn_pl.data.pictures.coded import LONGEST_RUN, coded_size, packed_length, shown
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
    taken: ``window``, or the file's first window, or all of them; an enhanced file says so of each
    frame. MONOCHROME1 is turned round, so that white is white. Overlays and lookup tables of values
    of interest are not applied.

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
    limits = Range.of(window) if window else _own_range(path, header, index) if grey else None
    note = (limits.note if limits else FULL_RANGE) if grey else ""
    decode = partial(_decode, path, index, grey, limits)
    return DecodedPicture(str(path), height, width, decode, note)


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ConfigError(
            f"{path} is a DICOM file, which needs pydicom. Install it: pip install pydicom."
        ) from error
    return pydicom


def _stating(header: Any, index: int, macro: str, element: str) -> Any:
    """What states an element of a frame: of an enhanced file a macro, or the header itself.

    A macro is a sequence of one item in the functional groups of each frame, or in those that all
    frames share (DICOM PS3.3, C.7.6.16).
    """
    groups = [
        *(header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1],
        *(header.get("SharedFunctionalGroupsSequence") or [])[:1],
    ]
    items = [item for group in groups for item in (group.get(macro) or [])[:1]]
    return next((item for item in items if item.get(element) is not None), header)


def _own_range(path: Path, header: Any, index: int) -> Range | None:
    """The first window of a frame, if it has one (DICOM PS3.3, C.11.2.1.2)."""
    try:
        header = _stating(header, index, "FrameVOILUTSequence", "WindowCenter")
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
        with _Deflated(FileIO(path)) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            syntax = header.file_meta.TransferSyntaxUID
            if syntax.is_encapsulated:
                values = _decompressed(path, file, header, index)
            elif syntax.is_deflated:  # which pydicom does not read by frames
                file.seek(0)
                values = pydicom.pixels.pixel_array(pydicom.dcmread(file), index=index)
            else:
                values = pydicom.pixels.pixel_array(file, index=index)
        if not grey:
            return np.asarray(values, np.uint8)
        scale = _stating(header, index, "PixelValueTransformationSequence", "RescaleSlope")
        values = pydicom.pixels.apply_modality_lut(values, scale)
    except DataError:
        raise
    except Exception as error:  # codecs raise what they like
        raise DataError(
            f"{path}: its pixels cannot be decoded ({error}). Export it uncompressed, or install "
            "what pydicom needs for its compression."
        ) from error
    pixels = to_rgb(values, limits)
    return 255 - pixels if header.PhotometricInterpretation == "MONOCHROME1" else pixels


def _decompressed(path: Path, file: BufferedReader, header: Any, index: int) -> Any:
    """The values of a compressed frame; the file is at the element that holds them.

    Raises:
        DataError: If it decompresses to more, or to less, than the header declares.
    """
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels import as_pixel_options, get_decoder

    options = as_pixel_options(header, pixel_keyword="PixelData")
    file.seek(12, SEEK_CUR)  # tag, type and length of the element
    frame = get_frame(
        file,
        index,
        number_of_frames=options["number_of_frames"],
        extended_offsets=options.get("extended_offsets"),
    )
    syntax = header.file_meta.TransferSyntaxUID
    _refuse_bomb(path, header, syntax, frame)
    # Nothing but what was checked, whatever else the file has frames in.
    options |= {"number_of_frames": 1, "extended_offsets": None}
    return get_decoder(syntax).as_array(BytesIO(encapsulate([frame])), index=0, **options)[0]


def _refuse_bomb(path: Path, header: Any, syntax: str, frame: bytes) -> None:
    """Refuses a frame that is not of the size that its file declares, before it is decoded.

    Raises:
        DataError: Says what it decodes to.
        NotImplementedError: If nobody knows of this compression.
    """
    from pydicom import uid

    rows, columns, channels = map(
        int, (header.Rows, header.Columns, header.get("SamplesPerPixel", 1))
    )
    if syntax in uid.RLETransferSyntaxes:
        most = rows * columns + LONGEST_RUN  # writers pad
        count = min(unpack_from("<L", frame)[0], 15)
        bounds = *unpack_from(f"<{count}L", frame, 4), len(frame)
        segments = (frame[start:end] for start, end in pairwise(bounds))
        if all(packed_length(segment, most) <= most for segment in segments):
            return
        found = f"a segment of RLE of more than {most} bytes"
    elif syntax in (
        *uid.JPEGTransferSyntaxes,
        *uid.JPEGLSTransferSyntaxes,
        *uid.JPEG2000TransferSyntaxes,
    ):
        size = coded_size(frame)
        if size == (rows, columns, channels):
            return
        found = shown(size)
    else:
        raise NotImplementedError(f"its compression, {syntax}, is not known")
    raise DataError(
        f"{path}: the header declares {shown((rows, columns, channels))}, but the compressed frame "
        f"holds {found}. Export it again."
    )
