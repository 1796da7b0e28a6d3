"""Images and masks from files: one pixel layout out of the many that files come in."""

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from lcpdn_pl.errors import DataError
from lcpdn_pl.metrics import IGNORE

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_OPAQUE = 255
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L")
_MOST_VALUES = 8
# Beyond the picture's own pixels. Tiles that reach beyond a small picture are common, of 256 to
# 1024 pixels a side, and 4096 leaves room; decoded, such a tile takes 48 MiB of 8-bit RGB.
_LARGEST_TILE = 4096 * 4096
# How a TIFF's numbers of types store whole numbers; the signed ones too, of which a negative one is
# then too large.
_WHOLE = {1: "B", 6: "B", 3: "H", 8: "H", 4: "L", 9: "L", 16: "Q", 17: "Q"}
_PNG_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
# What Pillow raises for torn or foreign bytes, by format and place of the damage.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens one picture; whatever Pillow raises inside becomes a `DataError` naming the file."""
    try:
        # From an open file, since Pillow garbles turned raw TIFFs that it maps by their path.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages != 1:
                raise DataError(
                    f"{path}: expected one picture, found {pages} pages. Save each page as a file "
                    "of its own."
                )
            if isinstance(picture, TiffImageFile):
                _refuse_large_tiles(picture, file, path)
            yield picture
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(
            f"{path}: expected an image, found no such file. Put it there or correct the path."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: {error}. Cut the picture into tiles, or save it as a TIFF for lcpdn segment, "
            "which reads it by parts."
        ) from error
    except _UNREADABLE as error:
        size = path.stat().st_size
        found = f"an unreadable or truncated file of {size} bytes" if size else "an empty file"
        raise DataError(
            f"{path}: expected a PNG, JPEG, TIFF or BMP picture, found {found} ({error}). "
            "Download or export it again."
        ) from error


def _refuse_large_tiles(picture: TiffImageFile, file: BinaryIO, path: Path) -> None:
    """Refuses a TIFF with tiles far larger than itself, which are decoded whole all the same.

    Raises:
        DataError: Says how large a tile may be.
    """
    sides = _tile_sides(picture, file)
    rows, columns = (max(sides[tag], default=0) for tag in (TILELENGTH, TILEWIDTH))
    width, height = picture.size
    if rows * columns > width * height + _LARGEST_TILE:
        raise DataError(
            f"{path}: expected tiles that hold at most {_LARGEST_TILE:,} pixels more than the "
            f"picture of {height} x {width}, found tiles of {rows} x {columns}. Save it in tiles "
            "of 256 x 256, or without tiles."
        )


def _tile_sides(picture: TiffImageFile, file: BinaryIO) -> dict[int, list[int]]:
    """All lengths and widths of tiles that a TIFF's directory states.

    Read here since of a tag that is there twice Pillow keeps the last, while libtiff, which
    decodes, goes by the first.
    """
    sides: dict[int, list[int]] = {TILELENGTH: [], TILEWIDTH: []}
    order = "<" if picture.tag_v2.prefix == b"II" else ">"
    place = file.tell()
    file.seek(0)
    count, entry = ("Q", "HHQ8s") if 43 in file.read(4)[2:] else ("H", "HHL4s")
    file.seek(picture.tag_v2.offset)
    (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    for _ in range(entries):
        found = file.read(struct.calcsize(order + entry))
        tag, kind, _, value = struct.unpack(order + entry, found)
        if tag in sides:
            sides[tag].append(struct.unpack_from(order + _WHOLE[kind], value)[0])
    file.seek(place)
    return sides


def _sixteen_bit(picture: Image.Image, path: Path) -> NDArray[np.uint16]:
    """The pixels [H,W] of a 16-bit grey picture."""
    if isinstance(picture, TiffImageFile):
        bits = picture.tag_v2[BITSPERSAMPLE][0]
        photometric = picture.tag_v2[PHOTOMETRIC_INTERPRETATION]
        # Pillow hands these over as they are stored: far too dark, or with black and white swapped.
        if (bits, photometric) != (16, 1):
            raise DataError(
                f"{path}: expected 16 bits a pixel with black as 0, found {bits} bits with "
                f"photometric interpretation {photometric}. Save it as an 8-bit or 16-bit PNG."
            )
    return np.asarray(ImageOps.exif_transpose(picture)).astype(np.uint16)


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, by their suffix, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a picture as 8-bit RGB, the way a viewer shows it (EXIF orientation applied).

    Grey, palette, 1-bit and CMYK pictures are converted. A 16-bit grey picture is scaled by its
    full range, so 65535 becomes 255: a scan that fills only 12 of the 16 bits comes out dark and
    has to be windowed beforehand. Of 16-bit colour Pillow keeps the high byte. An alpha channel is
    dropped and not composited: what lies under it is what the scanner recorded, while a
    background colour would be tissue that nobody saw.

    Args:
        path: A PNG, JPEG, TIFF or BMP file that holds one picture.

    Returns:
        Pixels [H,W,3] in 0..255.

    Raises:
        DataError: The file is missing, empty, truncated, of another format, holds several pages
            or tiles far larger than itself, or holds 32-bit values, whose range nobody knows.
    """
    with _opened(path) as picture:
        if picture.mode in ("I", "F"):
            raise DataError(
                f"{path}: expected 8 or 16 bits a channel, found 32 (mode {picture.mode}), whose "
                "range is unknown. Scale it to 8 or 16 bits."
            )
        if picture.mode in _SIXTEEN_BIT:
            grey = np.rint(_sixteen_bit(picture, path) / 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def _turned(picture: Image.Image) -> bool:
    """Whether the size in the header has height and width exchanged."""
    # Pillow exchanges those of a TIFF by itself. In a PNG without EXIF before its pixels it would
    # decode all of them to look for EXIF behind; writers put it before them.
    silent = picture.format == "PNG" and not _PNG_EXIF & picture.info.keys()
    if picture.format == "TIFF" or silent:
        return False
    return picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def read_size(path: Path) -> tuple[int, int]:
    """Reads the size of a picture from its header alone, without decoding a pixel.

    Args:
        path: A PNG, JPEG, TIFF or BMP file that holds one picture.

    Returns:
        Height and width of the array that `read_image` and `read_mask` return.

    Raises:
        DataError: The file is missing, empty, has no readable header, or holds several pages or
            tiles far larger than itself.
    """
    with _opened(path) as picture:
        width, height = picture.size
        return (width, height) if _turned(picture) else (height, width)


def read_kind(path: Path) -> str:
    """Reads a picture's format and Pillow's name of its mode, such as `PNG RGB`, from its header.

    Raises:
        DataError: As in `read_size`.
    """
    with _opened(path) as picture:
        return f"{picture.format} {picture.mode}"


def _is_grey(palette: Image.Image) -> bool:
    colours = np.array(palette.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _one_channel(picture: Image.Image, path: Path) -> NDArray[np.integer]:
    """The values [H,W] of a mask that is not 16-bit."""
    if "A" in picture.getbands():
        if picture.getchannel("A").getextrema()[0] != _OPAQUE:
            raise DataError(
                f"{path}: expected a mask without transparency, found an alpha channel with values "
                f"below {_OPAQUE}. Save the mask as an 8-bit grey PNG without alpha."
            )
        picture = picture.convert("RGB")
    # With a coloured palette the index is the class and the colour only paint; a grey palette is
    # what an optimiser makes of a grey mask, and there the index means nothing.
    if picture.mode == "1" or (picture.mode == "P" and _is_grey(picture)):
        picture = picture.convert("L")
    pixels = np.array(picture)
    if picture.mode == "RGB" and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    if picture.mode not in ("L", "P", "I"):
        raise DataError(
            f"{path}: expected a mask of one channel or of equal channels, found a picture of mode "
            f"{picture.mode} that is not grey. Save the mask as an 8-bit grey PNG."
        )
    return pixels


def _unexpected(path: Path, pixels: NDArray[np.integer], allowed: list[int]) -> DataError:
    values, counts = np.unique(pixels, return_counts=True)
    found = [f"{value} ({count} pixels)" for value, count in zip(values, counts, strict=True)]
    more = f" and {len(found) - _MOST_VALUES} more" if len(found) > _MOST_VALUES else ""
    return DataError(
        f"{path}: expected the mask values {', '.join(map(str, allowed))}, found "
        f"{', '.join(found[:_MOST_VALUES])}{more}. A mask saved as JPEG or resized with smoothing "
        "is the usual cause: export it again as PNG. If the values are meant, name them in "
        "`data.foreground`."
    )


def read_values(path: Path) -> NDArray[np.integer]:
    """Reads a mask's values as they are in the file, EXIF orientation applied.

    Grey, 1-bit (black is 0, white 255), palette and colour masks with equal channels are read. A
    palette with colours gives its indices, a grey palette its grey values; 16-bit and 32-bit
    values are taken as they are stored.

    Args:
        path: A PNG, JPEG, TIFF or BMP file that holds one picture.

    Returns:
        Values [H,W].

    Raises:
        DataError: The file is unreadable as in `read_image`, or has colours or transparency.
    """
    with _opened(path) as picture:
        if picture.mode in _SIXTEEN_BIT:
            return _sixteen_bit(picture, path)
        return _one_channel(ImageOps.exif_transpose(picture), path)


def read_mask(
    path: Path, foreground: Collection[int], ignore: int | None = None
) -> NDArray[np.uint8]:
    """Reads a mask; the background is 0.

    Args:
        path: A file as `read_values` reads it.
        foreground: The values in the file that mean foreground; 0 is not one of them.
        ignore: The value in the file of pixels that nobody annotated.

    Returns:
        Mask [H,W] of 0 (background), 1 (foreground) and 255 (ignored, only with `ignore`).

    Raises:
        DataError: The file is unreadable as in `read_values`, or holds a value other than 0,
            `foreground` and `ignore`.
    """
    pixels = read_values(path)
    mask = np.isin(pixels, list(foreground)).astype(np.uint8)
    known = (mask == 1) | (pixels == 0)
    if ignore is not None:
        mask[pixels == ignore] = IGNORE
        known |= pixels == ignore
    if not known.all():
        allowed = {0, *foreground} | ({ignore} if ignore is not None else set())
        raise _unexpected(path, pixels, sorted(allowed))
    return mask
