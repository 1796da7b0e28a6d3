"""TIFF and BigTIFF files, the large ones read by their tiles or strips."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from lcpdn_pl.data.pictures.base import Picture, Pixels, check_pixels
from lcpdn_pl.data.pictures.coded import LONGEST_RUN, coded_size, packed_length, shown
from lcpdn_pl.data.pictures.plain import open_plain
from lcpdn_pl.errors import DataError

LARGE = 2**26
"""Pixels above which a TIFF is read by parts; smaller ones are read as in training."""

_DEFLATED = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_JPEG_2000 = (
    COMPRESSION.APERIO_JP2000_YCBC,
    COMPRESSION.APERIO_JP2000_RGB,
    COMPRESSION.JPEG2000,
)
# What is not packed is no more than the file, and LZW is left to imagecodecs, which is told the
# size; all others _refuse_bomb has to know.
_BOUNDED = (COMPRESSION.NONE, COMPRESSION.LZW)
_COMPRESSIONS = (
    *_BOUNDED,
    COMPRESSION.PACKBITS,
    *_DEFLATED,
    COMPRESSION.JPEG,
    *_JPEG_2000,
)

_LONGEST = 500_000  # pixels; a row of tiles is held in memory
_MOST_CHANNELS = 5

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(path: Path) -> bool:
    """Whether a file's content says so."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def open_tiff(path: Path) -> Picture:
    """Opens a TIFF; of a pyramid, or one with a thumbnail, the picture at full size.

    Raises:
        DataError: The file is unreadable or torn, holds several pictures, or is large and of a
            layout that cannot be read by parts.
    """
    with _opened(path) as pages:
        page = _full_size(path, pages)
        if len(pages) == 1 and page.imagewidth * page.imagelength <= LARGE:
            return open_plain(path)
        _check_layout(path, page)
        return TiffPicture(path, page.imagelength, page.imagewidth)


class TiffPicture(Picture):
    """A TIFF of which no more is decoded than the tiles or strips that hold the rows.

    16-bit values are scaled by their full range, an alpha channel is dropped, as in
    :func:`lcpdn_pl.data.images.read_image`.

    Args:
        path: The file; it is opened anew for each access.
        height: Rows.
        width: Columns.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        super().__init__(str(path), height, width)
        self._path = path

    def rows(self, top: int, bottom: int) -> Pixels:
        """See :meth:`Picture.rows`."""
        with _opened(self._path) as pages:
            page = _full_size(self._path, pages)
            values = _stored(page, top, bottom) if page.is_contiguous else _parts(page, top, bottom)
        if values.dtype != np.uint8:
            values = np.rint(values / np.float32(257)).astype(np.uint8)
        if values.shape[2] < 3:
            return np.repeat(values[..., :1], 3, axis=2)
        return np.asarray(values[..., :3], np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[list[Any]]:
    """The pages of a file; whatever goes wrong inside becomes a `DataError` naming it."""
    try:
        with TiffFile(path) as file:
            yield list(file.pages)
    except DataError:
        raise
    except Exception as error:  # codecs raise what they like
        remedy = "Download or export it again."
        if "imagecodecs" in str(error):
            remedy = "Install what decodes it, pip install imagecodecs, or save it deflated."
        raise DataError(f"{path}: this TIFF cannot be read ({error}). {remedy}") from error


def _full_size(path: Path, pages: list[Any]) -> Any:
    """The one page that is no smaller copy of another; writers put thumbnails before it too.

    Raises:
        DataError: There are several.
    """
    first = pages[0]
    if first.is_svs and first.is_tiled:
        # Aperio's levels are tiled and its thumbnail is not, but neither need be flagged as a copy.
        # TiffFile.series would tell them, but for a file that lies takes any memory and opens its
        # neighbours.
        size = first.imagelength * first.imagewidth
        full = [page for page in pages if page.is_tiled]
        full = [page for page in full if page.imagelength * page.imagewidth >= size]
    else:
        full = [page for page in pages if not page.is_reduced] or [first]
    if len(full) > 1:
        raise DataError(
            f"{path}: expected one picture, found {len(full)} pages. Save each page as a file of "
            "its own."
        )
    return full[0]


def _check_layout(path: Path, page: Any) -> None:
    grey = page.photometric == PHOTOMETRIC.MINISBLACK
    jpeg = page.photometric == PHOTOMETRIC.YCBCR and page.compression == COMPRESSION.JPEG
    colour = page.samplesperpixel >= 3 and (page.photometric == PHOTOMETRIC.RGB or jpeg)
    orientation = page.tags.valueof("Orientation", 1)
    if (
        not (grey or colour)
        or page.dtype not in (np.uint8, np.uint16)
        or (page.planarconfig != 1 and page.samplesperpixel > 1)
        or page.imagedepth != 1
        or orientation != 1
        or page.compression not in _COMPRESSIONS
        or page.samplesperpixel > _MOST_CHANNELS
    ):
        raise DataError(
            f"{path}: expected grey (black is 0) or RGB with 8 or 16 bits, channels together and "
            "not turned, deflated or as LZW, PackBits, JPEG or JPEG 2000, in a TIFF that is read "
            f"by parts; found {page.photometric.name}, {page.dtype}, {page.samplesperpixel} "
            f"channels, planar configuration {int(page.planarconfig)}, orientation {orientation}, "
            f"compression {page.compression!r}. Save it that way."
        )
    if max(page.imagelength, page.imagewidth) > _LONGEST:
        raise DataError(
            f"{path}: declares {page.imagelength} x {page.imagewidth} pixels; expected sides of at "
            f"most {_LONGEST:,}. Cut the picture."
        )
    rows, columns = _part_size(page)
    if not page.is_contiguous:
        check_pixels(f"{path}, in one part", rows, columns)
    expected = -(-page.imagelength // rows) * -(-page.imagewidth // columns)
    if len(page.dataoffsets) != expected:
        raise DataError(
            f"{path}: a picture of {page.imagelength} x {page.imagewidth} needs {expected} tiles "
            f"or strips, found {len(page.dataoffsets)}. Download or export it again."
        )


def _part_size(page: TiffPage) -> tuple[int, int]:
    """Rows and columns of a tile or strip."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _stored(page: Any, top: int, bottom: int) -> NDArray[Any]:
    """Rows that lie in the file as they are."""
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    shape = bottom - top, page.imagewidth, page.samplesperpixel
    row = page.imagewidth * page.samplesperpixel * dtype.itemsize
    page.parent.filehandle.seek(page.dataoffsets[0] + top * row)
    content = page.parent.filehandle.read((bottom - top) * row)
    return np.frombuffer(content, dtype).reshape(shape)


def _parts(page: Any, top: int, bottom: int) -> NDArray[Any]:
    """Rows out of the tiles or strips that hold them."""
    height, width = _part_size(page)
    columns = -(-page.imagewidth // width)
    # Parts that a writer left out are empty.
    values = np.zeros((bottom - top, page.imagewidth, page.samplesperpixel), page.dtype)
    file = page.parent.filehandle
    for index in range(top // height * columns, -(-bottom // height) * columns):
        if not page.databytecounts[index]:
            continue
        file.seek(page.dataoffsets[index])
        content = file.read(page.databytecounts[index])
        _refuse_bomb(page, content, index)
        part = page.decode(content, index, jpegtables=page.jpegtables)[0]
        part = part.reshape(-1, part.shape[-2], page.samplesperpixel)
        first, left = index // columns * height, index % columns * width
        low, high = max(top, first), min(bottom, first + height)
        # Tiles reach beyond the picture.
        target = values[low - top : high - top, left : left + width]
        target[:] = part[low - first : high - first, : target.shape[1]]
    return values


def _refuse_bomb(page: Any, content: bytes, index: int) -> None:
    """Refuses a part that decodes to more than it should, before it is decoded.

    Raises:
        ValueError: Says what it decodes to.
    """
    height, width = _part_size(page)
    most = height * width * page.samplesperpixel * page.dtype.itemsize
    if page.compression == COMPRESSION.PACKBITS:
        # Without imagecodecs it is unpacked to whatever it is. A byte that pads a part starts a run
        # which is then not there.
        if packed_length(content, most + LONGEST_RUN) > most + LONGEST_RUN:
            raise ValueError(f"part {index} unpacks to more than its {most} bytes")
    elif page.compression in _DEFLATED:
        if len(zlib.decompressobj().decompress(content, most + 1)) > most:
            raise ValueError(f"part {index} inflates to more than its {most} bytes")
    elif page.compression == COMPRESSION.JPEG or page.compression in _JPEG_2000:
        declared = height, width, page.samplesperpixel
        found = coded_size(content)
        if found is None or any(have > most for have, most in zip(found, declared, strict=True)):
            raise ValueError(f"part {index} of {shown(declared)} holds {shown(found)}")
