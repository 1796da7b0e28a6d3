"""Damage to valid files, as hypothesis strategies, and the one property that all of it is held to.

A case ends in a result or in one of our own errors; never in another exception, never in nothing
for :data:`PATIENCE` seconds, and never in code that a file brought.
"""

import copy
import datetime
import io
import math
import os
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st

from lcpdn_pl.errors import LCPDNError

T = TypeVar("T")

CANARY = "tests.fuzz.canary"
"""Module that nothing but a file of these tests names: where it is imported, code has run."""
PATIENCE = 20
"""Seconds after which a case counts as hanging; a case takes milliseconds."""
ASKED = int(os.environ.get("LCPDN_FUZZ_CASES", "0"))
"""Cases of each test in a long run, `make fuzz`; 0 is the short run, whose cases are always the
same."""

ODD_TEXTS = (
    *("", " ", "\t", "\n", "\r\n", "\0", "\x1b[2J", "\ufeff", "\u2028", "\u202e", "肺", "é", "😀"),
    *("nan", "NA", "-inf", "1e999", "-0", "9" * 5000, "true", "null", "~", "=1+1", "2020-13-45"),
    *('"', "'", ",", ";", "a,b", '"a', "{", "[", "%s", "{0}", "../../x", "/", ".", "x" * 100_000),
    *(CANARY, f"{CANARY}.Sprung", "os.mkdir", "torch.nn.Linear", "lcpdn_pl.models.UNet", "Pixels"),
)
# Numbers are small, or too large for any memory: what lies between would be tried, and take long.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2, 0.5, 2**31, -(2**63), 2**64, 10**400, 1e308, -1e-308),
    *(math.nan, math.inf, -math.inf, (), [], {}, [[]], {"": None}, [None], b"\0\xff"),
    *(datetime.date(2020, 1, 1), {"class_path": f"{CANARY}.Sprung", "init_args": {}}),
    *ODD_TEXTS,
)
_ODD_BYTES = (
    *(bytes(1), bytes(4), b"\xff", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80"),
    *(b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\1\0\0\0", b"-1", b"1e999", b"\n", b'"', b" " * 64),
    *(struct.pack("<f", number) for number in (math.nan, math.inf, -math.inf, 3e38)),
)
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "utf-7", "latin-1", "cp1252", "shift_jis", "cp037")


def cases(short: int, cost: int = 1) -> settings:
    """How many cases a test runs: `short` by default, ASKED / `cost` of them in a long run."""
    return settings(
        max_examples=max(1, ASKED // cost) if ASKED else short,
        derandomize=not ASKED,
        database=None,
        deadline=None,  # PATIENCE ends a case; this would only compare it with others
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class _Late(BaseException):
    """Raised by the alarm; no Exception, since readers turn those into errors of their own."""


@contextmanager
def _watched() -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _Late

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    # Again each second: raised in a destructor it comes to nothing.
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1)
    try:
        yield
    except _Late as late:
        raise AssertionError(f"nothing came of it in {PATIENCE} s") from late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(call: Callable[[], T]) -> T | None:
    """What a call returns, or None where it ended in one of our errors."""
    try:
        with _watched():
            return call()
    except LCPDNError:
        return None
    finally:
        assert sys.modules.pop(CANARY, None) is None, "code of a file has run"


# Bytes


class Content(bytes):
    """A file's bytes, which a report of a failure does not print; the file is in the folder."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def damaged(draw: st.DrawFn, content: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """The content with bytes flipped, overwritten, put in, cut off, taken out, doubled or moved.

    Args:
        draw: Given by hypothesis.
        content: A valid file.
        tokens: Pieces that mean something in its format.
    """
    data = bytearray(content)
    pieces = st.one_of(st.sampled_from([*tokens, *_ODD_BYTES]), st.binary(min_size=1, max_size=8))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.sampled_from((1, 2, 4, 16, 100, 1000)))
        edit = draw(st.sampled_from(("flip", "write", "insert", "cut", "remove", "double", "move")))
        note(f"{edit} {at}:{end} of {len(data)} bytes")
        match edit:
            case "flip":
                flipped = 1 << draw(st.integers(0, 7))
                data[at : at + 1] = bytes(byte ^ flipped for byte in data[at : at + 1])
            case "write":
                piece = draw(pieces)
                at -= at % draw(st.sampled_from((1, 4)))  # numbers in a header are aligned
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = draw(pieces)
            case "cut":
                del data[at:]
            case "remove":
                del data[at:end]
            case "double":
                data[at:at] = data[at:end]
            case "move":
                part = data[at:end]
                del data[at:end]
                to = draw(st.integers(0, len(data)))
                data[to:to] = part
    return Content(data)


def recoded(text: str) -> st.SearchStrategy[bytes]:
    """The text in encodings that it should not have."""
    return st.sampled_from(_ENCODINGS).map(lambda name: text.encode(name, "replace"))


@st.composite
def damaged_zip(draw: st.DrawFn, content: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """A zip file one of whose members is damaged, under a checksum that fits."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    if draw(st.integers(0, 9)):
        members[name] = draw(damaged(members[name], tokens))
    else:
        del members[name]
    return zipped(members)


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip file of these members, uncompressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in members.items():
            archive.writestr(name, part)
    return Content(file.getvalue())


@st.composite
def damaged_png(draw: st.DrawFn, content: bytes) -> bytes:
    """A PNG file one of whose chunks is damaged, under a checksum that fits."""
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append(content[at + 4 : at + 8 + length])
        at += length + 12
    index = draw(st.integers(0, len(chunks) - 1))
    chunks[index] = draw(damaged(chunks[index])).ljust(4, b"\0")
    framed = (
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in chunks
    )
    return Content(content[:8] + b"".join(framed))


# Tables


@st.composite
def odd_rows(draw: st.DrawFn, rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows with odd cells, and with rows and columns taken out, doubled or exchanged."""
    table = [list(row) for row in rows]
    for _ in range(draw(st.integers(1, 4))):
        if not table:
            break
        row, other = (draw(st.integers(0, len(table) - 1)) for _ in range(2))
        at, to = (draw(st.integers(0, max(map(len, table)))) for _ in range(2))
        match draw(st.sampled_from(("cell", "row", "double", "swap", "column", "long", "twice"))):
            case "cell":
                table[row][at : at + 1] = [draw(odd_texts())]
            case "row":
                del table[row]
            case "double":
                table.insert(other, list(table[row]))
            case "swap":
                table[row], table[other] = table[other], table[row]
            case "column":
                for cells in table:
                    cells[at:to] = reversed(cells[at:to])
            case "long":
                table[row] += [draw(odd_texts())] * draw(st.sampled_from((1, 2, 20)))
            case "twice":
                for cells in table:
                    cells[to:to] = cells[at : at + 1]
    return table


def odd_texts() -> st.SearchStrategy[str]:
    """Texts that mean something somewhere, or anything, halves of characters included."""
    return st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(), max_size=20))


# Trees


@st.composite
def odd_tree(
    draw: st.DrawFn, tree: Any, values: Sequence[Any] = ODD_VALUES, loops: bool = False
) -> Any:
    """A tree of dicts and lists with parts replaced, taken out, renamed, wrapped or exchanged.

    Args:
        draw: Given by hypothesis.
        tree: As it should be; it is not changed.
        values: What parts are replaced by.
        loops: Whether parts may hold themselves.
    """
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        (part, key), (source, other) = (
            places[draw(st.integers(0, len(places) - 1))] for _ in range(2)
        )
        match draw(st.sampled_from(("odd", "remove", "rename", "wrap", "copy", "inside"))):
            case "odd":
                part[key] = copy.deepcopy(draw(st.sampled_from(values)))
            case "remove" if part is not root:
                del part[key]
            case "rename" if isinstance(part, dict):
                part[draw(st.sampled_from((*ODD_TEXTS, "class_path", "init_args")))] = part.pop(key)
            case "wrap":
                part[key] = draw(st.sampled_from(([part[key]], {"init_args": part[key]})))
            case "inside" if loops:
                part[key] = source[other]
            case _:
                part[key] = copy.deepcopy(source[other])
    return root[0]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Containers and keys, outer ones first."""
    seen: set[int] = set()
    left = [tree]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield part, key
            if isinstance(value, dict | list):
                left.append(value)
