"""What compressed pixels decode to, told without decoding them."""

from collections.abc import Iterator
from struct import error, unpack_from

Size = tuple[int, int, int]
"""Rows, columns and channels."""

LONGEST_RUN = 128
"""Bytes that one run of PackBits decodes to at most."""

_JP2 = b"\0\0\0\x0cjP  "
_CODESTREAM = b"\xff\x4f\xff\x51"

# Markers of a JPEG: those of frames (of JPEG-LS and hierarchies too), and those without a length.
_FRAMES = {*range(0xC0, 0xD0), 0xDE, 0xF7} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}
_SCAN, _FILL = 0xDA, 0xFF


def coded_size(content: bytes) -> Size | None:
    """The size that the headers of a JPEG, JPEG-LS or JPEG 2000 picture state.

    Where several headers do, it is the largest numbers of all: which of them a decoder takes
    memory for is its own affair.

    Args:
        content: The picture, bare or, of JPEG 2000, as a JP2 file.

    Returns:
        ``None`` where there is no such picture, or its headers are torn.
    """
    read = _of_jp2 if content.startswith(_JP2) else _of_stream
    try:
        sizes = list(read(content))
    except (error, IndexError):
        return None
    if not sizes:
        return None
    rows, columns, channels = map(max, zip(*sizes, strict=True))
    return rows, columns, channels


def shown(size: Size | None) -> str:
    """A size for messages, such as ``256 x 256 pixels of 3 channels``."""
    if size is None:
        return "no picture whose size can be read"
    rows, columns, channels = size
    return f"{rows} x {columns} pixels of {channels} channel{'s' * (channels != 1)}"


def packed_length(content: bytes, most: int) -> int:
    """How many bytes PackBits decode to; counted no further than to the first above ``most``."""
    at = length = 0
    while at < len(content) and length <= most:
        head = content[at]
        if head < 128:  # so many bytes follow as they are
            length += head + 1
            at += head + 1
        elif head > 128:  # the byte that follows is repeated
            length += 257 - head
            at += 1
        at += 1
    return length


def _of_jp2(content: bytes) -> Iterator[Size]:
    at = 0
    while True:
        length, kind = unpack_from(">I4s", content, at)
        if kind == b"jp2c":
            yield from _of_stream(content[at + 8 :])
            return
        if kind == b"ihdr":
            yield unpack_from(">IIH", content, at + 8)
        if length < 8:
            raise IndexError("a box that never ends, or is longer than any file")
        at += 8 if kind == b"jp2h" else length  # boxes lie in that one


def _of_stream(content: bytes) -> Iterator[Size]:
    if content.startswith(_CODESTREAM):
        right, bottom, left, top, channels = unpack_from(">4I16xH", content, 8)
        yield bottom - top, right - left, channels
        return
    at = 0
    while content[at] == 0xFF and content[at + 1] != _SCAN:
        marker = content[at + 1]
        if marker in _FRAMES:
            yield unpack_from(">HHB", content, at + 5)
        if marker == _FILL:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + unpack_from(">H", content, at + 2)[0]
    if content[at] != 0xFF:
        raise IndexError("no marker where one is due")
