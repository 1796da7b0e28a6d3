"""What is told apart by content, and what is refused before a pixel is decoded."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcpdn_pl.data.images import read_image
from lcpdn_pl.data.pictures import DecodedPicture, Range, open_picture
from lcpdn_pl.data.pictures.base import choose_slice, to_rgb
from lcpdn_pl.errors import ConfigError, DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "png_without_suffix"])
def test_comes_as_in_training(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(COLOUR).save(path, None if "." in name else "PNG")
    picture = open_picture(path)
    assert (picture.height, picture.width, picture.note) == (7, 5, "")
    np.testing.assert_array_equal(picture.rows(0, 7), read_image(path))
    np.testing.assert_array_equal(picture.rows(2, 4), COLOUR[2:4])


def write_bomb(path: Path, width: int, height: int) -> Path:
    """A PNG whose header declares a size that its few bytes do not hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("side", [13_000, 60_000])
def test_declared_sizes_are_checked_first(tmp_path: Path, side: int) -> None:
    bomb = write_bomb(tmp_path / "a.png", side, side)
    with pytest.raises(DataError, match=r"a\.png: .*(at most 150,000,000 .* TIFF|exceeds limit)"):
        open_picture(bomb)


def test_large_ones_within_the_limit_open_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    picture = open_picture(write_bomb(tmp_path / "a.png", 10_000, 10_000))
    assert (picture.height, picture.width) == (10_000, 10_000)
    assert not recwarn.list


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.png: .* no such file"):
        open_picture(tmp_path / "b.png")
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    torn = tmp_path / "torn.png"
    torn.write_bytes((tmp_path / "a.png").read_bytes()[:-60])
    picture = open_picture(torn)
    with pytest.raises(DataError, match=r"torn\.png: .* truncated"):
        picture.rows(0, 1)


def test_slice_and_window_are_for_volumes(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"slice is for DICOM and NIfTI, but .*a\.png"):
        open_picture(tmp_path / "a.png", slice=0)
    with pytest.raises(ConfigError, match=r"window is for DICOM and NIfTI"):
        open_picture(tmp_path / "a.png", window=(0, 1))
    with pytest.raises(ConfigError, match=r"window=\[0, -1\]: expected .* width above 0"):
        open_picture(tmp_path / "a.png", window=(0, -1))


def test_a_header_that_lies() -> None:
    picture = DecodedPicture("a", 4, 4, lambda: np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(DataError, match="a: the header declares 4 x 4 pixels, found 2 x 2"):
        picture.rows(0, 1)
    with pytest.raises(DataError, match="a: expected pixels, found a size of 0 x 4"):
        DecodedPicture("a", 0, 4, lambda: np.zeros((0, 4, 3), np.uint8))


def test_a_picture_is_decoded_once() -> None:
    calls = []

    def decode() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        calls.append(1)
        return np.zeros((4, 4, 3), np.uint8)

    picture = DecodedPicture("a", 4, 4, decode)
    assert not calls
    picture.rows(0, 2)
    picture.rows(2, 4)
    assert len(calls) == 1


def test_range_of_values() -> None:
    values = np.array([[-1000.0, -600, 0, 150, 3000, np.nan]])
    window = Range.of((-600, 1500))
    assert (window.low, window.high) == (-1350, 150)
    expected = [round(255 * x / 1500) for x in (350, 750, 1350, 1500, 1500, 0)]
    assert to_rgb(values, window)[0, :, 1].tolist() == expected
    assert to_rgb(values, None)[0, :, 0].tolist() == [0, 26, 64, 73, 255, 0]
    assert to_rgb(np.full((2, 2), 7), None).max() == 0
    assert window.note == "values -1350 to 150 (given)"


def test_choice_of_a_slice() -> None:
    assert choose_slice("a", 1, None) == 0
    assert choose_slice("a", 3, 2) == 2
    with pytest.raises(ConfigError, match=r"a holds 3 slices\. Choose one: --slice 0 to 2"):
        choose_slice("a", 3, None)
    with pytest.raises(ConfigError, match="a holds slices 0 to 2, but slice=3"):
        choose_slice("a", 3, 3)
