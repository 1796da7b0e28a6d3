"""Sizes of compressed pictures, and lengths of PackBits, against what decoders make of them."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from lcpdn_pl.data.pictures.coded import coded_size, packed_length, shown


def saved(channels: int, format: str, **options: Any) -> bytes:
    file = BytesIO()
    Image.new("L" if channels == 1 else "RGB", (31, 20)).save(file, format, **options)
    return file.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def frame(rows: int, columns: int, channels: int = 1) -> bytes:
    return b"\x08" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([channels])


START, SCAN = b"\xff\xd8", b"\xff\xda\0\2"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"\xff\xc0\0\x0b\x08\0\1\0\1\1"}),
        ("JPEG2000", {"no_jp2": True}),
        ("JPEG2000", {"no_jp2": False}),
        ("JPEG2000", {"no_jp2": True, "offset": (7, 3), "tile_size": (64, 64)}),
    ],
    ids=str,
)
def test_sizes(channels: int, format: str, options: dict[str, Any]) -> None:
    content = saved(channels, format, **options)
    with Image.open(BytesIO(content)) as picture:
        columns, rows = picture.size
    assert coded_size(content) == (rows, columns, channels)


@pytest.mark.parametrize("marker", [0xC0, 0xC3, 0xCF, 0xDE, 0xF7], ids=hex)
def test_frames_of_all_kinds(marker: int) -> None:
    assert coded_size(START + segment(marker, frame(20, 31, 3)) + SCAN) == (20, 31, 3)


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC, 0xE1, 0xFE], ids=hex)
def test_what_is_no_frame(marker: int) -> None:
    other = segment(marker, frame(2, 2))
    assert coded_size(START + other + segment(0xC1, frame(20, 31)) + SCAN) == (20, 31, 1)
    assert coded_size(START + other + SCAN) is None


def test_a_large_frame_hides_behind_nothing() -> None:
    """Decoders skip fillers and markers without a length, and may take the last frame's size."""
    small, large = segment(0xC0, frame(2, 4)), segment(0xC0, frame(9000, 12_000))
    for content in (
        START + small + large + SCAN,
        START + large + small + SCAN,
        START + b"\xff\xff\xff" + large + SCAN,
        START + b"\xff\x01\xff\xd3" + large + small + SCAN,
    ):
        assert coded_size(content) == (9000, 12_000, 1)
    jp2 = bytearray(saved(1, "JPEG2000", no_jp2=False))
    at = jp2.index(b"ihdr") + 4
    jp2[at : at + 4] = (9000).to_bytes(4, "big")
    assert coded_size(bytes(jp2)) == (9000, 31, 1)
    at = jp2.index(b"\xff\x4f\xff\x51") + 8
    jp2[at : at + 4] = (12_000).to_bytes(4, "big")
    assert coded_size(bytes(jp2)) == (9000, 12_000, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"no picture",
        saved(1, "PNG"),
        START + segment(0xC0, frame(20, 31)),
        START + segment(0xC0, frame(20, 31)) + b"junk" + SCAN,
        START + b"\xff\xc0\0",
        b"\xff\x4f\xff\x51" + bytes(20),
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),  # a box of no length, for ever
    ],
)
def test_what_has_no_size(content: bytes) -> None:
    assert coded_size(content) is None


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"", 0),
        (b"\x02abc", 3),
        (b"\xfea", 3),
        (b"\x81a\x7f" + bytes(128), 256),
        (b"\x80\x80\x00a", 1),
        (b"\xffa\x80\x02abc\x81z", 2 + 3 + 128),
    ],
)
def test_lengths_of_packbits(content: bytes, length: int) -> None:
    assert packed_length(content, 1000) == length


def test_counting_stops() -> None:
    assert packed_length(b"\x81a" * 1000, 300) == 3 * 128
    assert packed_length(b"\x81a" * 1000, 128 * 1000) == 128 * 1000


def test_sizes_are_shown() -> None:
    assert shown((20, 31, 1)) == "20 x 31 pixels of 1 channel"
    assert shown((20, 31, 3)) == "20 x 31 pixels of 3 channels"
    assert shown(None) == "no picture whose size can be read"
