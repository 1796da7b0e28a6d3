import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from lcpdn_pl.data import images
from lcpdn_pl.data.images import read_image, read_mask, read_size
from lcpdn_pl.errors import DataError

GREY = np.array([[0, 64, 255], [1, 128, 7]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
MASK = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)

Reader = Callable[[Path], object]
READERS: list[Reader] = [read_image, read_size, lambda path: read_mask(path, [255])]


def save(
    path: Path, pixels: NDArray[np.generic], mode: str | None = None, **options: object
) -> Path:
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)  # type: ignore[arg-type]
    return path


def palette(path: Path, index: NDArray[np.uint8], colours: list[int]) -> Path:
    picture = Image.fromarray(index).copy()
    picture.putpalette(colours)
    assert picture.mode == "P"
    picture.save(path)
    return path


# Images


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.PNG"])
def test_colour_comes_as_it_is(tmp_path: Path, name: str) -> None:
    image = read_image(save(tmp_path / name, COLOUR))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLOUR)


def test_jpeg(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.jpg", np.full((8, 8, 3), 90, np.uint8)))
    np.testing.assert_array_equal(image, np.full((8, 8, 3), 90))


def test_grey_is_repeated(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", GREY))
    np.testing.assert_array_equal(image, np.repeat(GREY[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", MASK, "1"))
    np.testing.assert_array_equal(image[..., 1], MASK)


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    path = palette(tmp_path / "a.png", np.array([[0, 1]], np.uint8), [10, 20, 30, 40, 50, 60])
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_alpha_is_dropped_not_composited(tmp_path: Path) -> None:
    clear = np.dstack([COLOUR, np.zeros_like(GREY)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", clear)), COLOUR)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_is_scaled_by_its_full_range(tmp_path: Path, name: str, dtype: str) -> None:
    deep = np.array([[0, 65535, 257], [128, 129, 32768]], dtype)
    image = read_image(save(tmp_path / name, deep))
    assert image[..., 0].tolist() == [[0, 255, 1], [0, 1, 128]]
    assert image.shape == (2, 3, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    path = save(tmp_path / "a.tif", np.ones((2, 2), dtype))
    with pytest.raises(DataError, match=r"a\.tif: expected 8 or 16 bits .* found 32 .* Scale it"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, lambda path: read_mask(path, [65535])])
def test_sixteen_bit_tiff_with_white_as_zero_is_refused(tmp_path: Path, read: Reader) -> None:
    path = save(tmp_path / "a.tif", np.zeros((2, 2), np.uint16), tiffinfo={262: 0})
    blob = path.read_bytes()
    # Pillow insists on black as 0 when it writes: photometric interpretation is tag 262, a short.
    entry = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert blob.count(entry) == 1
    at = blob.index(entry) + len(entry)
    path.write_bytes(blob[:at] + b"\0\0" + blob[at + 2 :])
    with pytest.raises(DataError, match=r"black as 0, found 16 bits .* interpretation 0"):
        read(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    # One bright half that survives JPEG; the expected array is what the EXIF standard says.
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :16] = 255
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, stored, exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0] > 127, upright > 127)
    assert read_size(path) == upright.shape
    if name != "a.jpg":
        np.testing.assert_array_equal(read_mask(path, [255]), upright // 255)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_size_is_height_and_width(tmp_path: Path, name: str) -> None:
    assert read_size(save(tmp_path / name, np.zeros((5, 9, 3), np.uint8))) == (5, 9)


def test_size_needs_the_header_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8)
    path = save(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[:1000])
    assert read_size(path) == (64, 48)


# Files that cannot be read


@pytest.mark.parametrize("read", READERS)
def test_missing_file(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(DataError, match=r"gone\.png: expected an image, found no such file\. Put"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("read", READERS)
def test_empty_file(tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(DataError, match=r"empty\.png: .* found an empty file .* export it again"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_other_bytes(tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"page\.png: expected a PNG.*file of 16 bytes.*again"):
        read(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("read", [READERS[0], READERS[2]])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("b.tif", {"compression": "tiff_deflate"}),
    ],
)
def test_truncated_file(tmp_path: Path, name: str, options: dict[str, str], read: Reader) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = save(tmp_path / name, noise, **options)
    blob = path.read_bytes()
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(blob[: int(len(blob) * part)])
        with pytest.raises(DataError, match=rf"{name}: .*(unreadable or truncated).*again"):
            read(path)


@pytest.mark.parametrize("read", READERS)
def test_pages_are_refused(tmp_path: Path, read: Reader) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(DataError, match=r"stack\.tif: expected one picture, found 3 pages\. Save"):
        read(tmp_path / "stack.tif")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    with pytest.raises(DataError, match="expected a PNG, JPEG, TIFF or BMP"):
        read_image(tmp_path / "a.gif")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    path = save(tmp_path / "a.png", GREY)
    with pytest.raises(DataError, match=r"a\.png: Image size .* into tiles"):
        read_size(path)


def tiled(
    path: Path, tiles: list[tuple[int, int, int]], order: str = "<", big: bool = False
) -> Path:
    """A grey TIFF of 6 rows of 4 pixels of value 7, in one deflated tile of 16 x 16.

    Args:
        path: The file.
        tiles: Tag, number of the type and value of the entries that state the tile.
        order: Of the bytes, as in `struct`.
        big: Whether it is a BigTIFF.
    """
    offset = 16 if big else 8
    entries = [(256, 3, 4), (257, 3, 6), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    data = zlib.compress(b"\7" * 256)
    count, number, long = ("Q", "Q", 16) if big else ("H", "L", 4)
    size = struct.calcsize(f"{order}{count}{number}")
    size += (len(entries) + len(tiles) + 2) * struct.calcsize(f"{order}HH{number}{number}")
    entries = [*entries, *tiles, (324, long, offset + size), (325, long, len(data))]
    start = struct.pack(f"{order}H", 43 if big else 42)
    start += struct.pack(f"{order}HHQ", 8, 0, offset) if big else struct.pack(f"{order}L", offset)
    directory = struct.pack(order + count, len(entries))
    for tag, kind, value in entries:
        code = {1: "B", 3: "H", 4: "L", 16: "Q"}[kind]
        stored = struct.pack(order + code, value).ljust(8 if big else 4, b"\0")
        directory += struct.pack(f"{order}HH{number}", tag, kind, 1) + stored
    directory += struct.pack(order + number, 0)
    path.write_bytes((b"II" if order == "<" else b"MM") + start + directory + data)
    return path


LAYOUTS = [("<", False), (">", False), ("<", True)]


@pytest.mark.parametrize(("order", "big"), LAYOUTS)
def test_tiles_larger_than_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, big: bool
) -> None:
    monkeypatch.setattr(images, "_LARGEST_TILE", 16 * 16 - 6 * 4)
    path = tiled(tmp_path / "a.tif", [(322, 3, 16), (323, 4, 16)], order, big)
    assert read_size(path) == (6, 4)
    np.testing.assert_array_equal(read_image(path), np.full((6, 4, 3), 7))
    monkeypatch.setattr(images, "_LARGEST_TILE", 16 * 16 - 6 * 4 - 1)
    for read in READERS:
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: expected tiles that hold at most 231 pixels more than the picture of 6 x 4, "
            "found tiles of 16 x 16. Save it in tiles of 256 x 256, or without tiles."
        )


@pytest.mark.parametrize(
    "tiles",
    [
        [(322, 3, 6000), (323, 3, 6000)],
        [(322, 4, 6000), (323, 4, 6000)],
        [(322, 3, 6000), (322, 3, 16), (323, 3, 6000), (323, 3, 16)],
        [(322, 3, 16), (322, 3, 6000), (323, 3, 6000)],
    ],
    ids=["shorts", "longs", "large and then small", "small and then large"],
)
@pytest.mark.parametrize(("order", "big"), LAYOUTS)
def test_tiles_far_larger_than_the_picture(
    tmp_path: Path, tiles: list[tuple[int, int, int]], order: str, big: bool
) -> None:
    path = tiled(tmp_path / "a.tif", tiles, order, big)
    for read in READERS:
        with pytest.raises(
            DataError, match=r"a\.tif: .* 16,777,216 .* tiles of 6000 x 6000\. Save"
        ):
            read(path)


def test_tiles_of_4096_and_of_the_whole_picture_are_no_bombs(tmp_path: Path) -> None:
    assert read_size(tiled(tmp_path / "a.tif", [(322, 3, 4096), (323, 3, 4096)])) == (6, 4)
    tifffile.imwrite(
        tmp_path / "b.tif",
        iter([b""]),
        shape=(5001, 5001),
        dtype=np.uint8,
        tile=(5008, 5008),
        compression="zlib",
    )
    assert read_size(tmp_path / "b.tif") == (5001, 5001)


@pytest.mark.parametrize("kind", [2, 5, 12])
def test_tiles_of_an_unreadable_size(tmp_path: Path, kind: int) -> None:
    path = tiled(tmp_path / "a.tif", [(322, 3, 16), (323, 3, 16)])
    entry = struct.pack("<HHL", 323, 3, 1)
    assert path.read_bytes().count(entry) == 1
    path.write_bytes(path.read_bytes().replace(entry, struct.pack("<HHL", 323, kind, 1)))
    with pytest.raises(DataError, match=r"a\.tif: .* unreadable or truncated .* again"):
        read_size(path)


# Masks


@pytest.mark.parametrize("mode", [None, "1", "RGB", "P", "RGBA", "LA"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_mask_from_every_mode(tmp_path: Path, name: str, mode: str | None) -> None:
    mask = read_mask(save(tmp_path / name, MASK, mode), [255])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK // 255)


def test_mask_values_are_merged_and_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 127, 255, 9]], np.uint8))
    assert read_mask(path, [127, 255], ignore=9).tolist() == [[0, 1, 1, 255]]


def test_coloured_palette_gives_indices(tmp_path: Path) -> None:
    path = palette(
        tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8), [0, 0, 0, 128, 0, 0, 9, 9, 9]
    )
    assert read_mask(path, [1], ignore=2).tolist() == [[0, 1, 255]]


def test_grey_palette_gives_grey_values(tmp_path: Path) -> None:
    path = palette(tmp_path / "a.png", np.array([[0, 1]], np.uint8), [255, 255, 255, 0, 0, 0])
    assert read_mask(path, [255]).tolist() == [[1, 0]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_mask_values_are_not_scaled(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, np.array([[0, 1, 700]], np.uint16))
    assert read_mask(path, [1, 700]).tolist() == [[0, 1, 1]]


def test_thirty_two_bit_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.array([[0, 70000]], np.int32))
    assert read_mask(path, [70000]).tolist() == [[0, 1]]


def test_unexpected_mask_values_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 3, 3, 255]], np.uint8))
    with pytest.raises(DataError) as caught:
        read_mask(path, [255], ignore=7)
    assert str(caught.value).startswith(
        f"{path}: expected the mask values 0, 7, 255, "
        "found 0 (1 pixels), 3 (2 pixels), 255 (1 pixels). "
    )
    assert "JPEG" in str(caught.value)
    assert "`data.foreground`" in str(caught.value)


def test_at_most_eight_values_are_listed(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.arange(20, dtype=np.uint8)[None])
    with pytest.raises(DataError, match=r"7 \(1 pixels\) and 12 more\."):
        read_mask(path, [1])


def test_lossy_mask(tmp_path: Path) -> None:
    disc = np.hypot(*np.mgrid[-20:20, -20:20]) < 12
    path = save(tmp_path / "m.jpg", disc.astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"m\.jpg: expected the mask values 0, 255, found"):
        read_mask(path, [255])


def test_ignore_must_be_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    assert read_mask(path, [1], ignore=255).tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match="expected the mask values 0, 1, found"):
        read_mask(path, [1])


def test_coloured_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.png: expected a mask of one channel .* mode RGB"):
        read_mask(save(tmp_path / "m.png", COLOUR), [255])


def test_float_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "m.tif", np.ones((2, 2), np.float32))
    with pytest.raises(DataError, match=r"m\.tif: expected a mask of one channel .* mode F"):
        read_mask(path, [1])


def test_mask_in_the_alpha_channel(tmp_path: Path) -> None:
    hidden = np.dstack([np.zeros((2, 3, 3), np.uint8), MASK])
    with pytest.raises(DataError, match=r"m\.png: expected a mask without transparency.* without"):
        read_mask(save(tmp_path / "m.png", hidden), [255])
