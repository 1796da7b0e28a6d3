"""Archives from strangers: all that they declare is looked at before the first byte is written."""

import gzip
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple, cast

from lcpdn_pl.data.problems import Problems
from lcpdn_pl.errors import DataError
from lcpdn_pl.trust import leads_out

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MOST_BYTES = 64 * 2**30
"""What an archive may hold, unpacked."""
MOST_MEMBERS = 1_000_000
MOST_RATIO = 200
"""How many times its packed size a member or an archive of `RATIO_FROM` bytes may have."""
RATIO_FROM = 100 * 2**20
MOST_HEADERS = 512 * 2**20
"""Bytes between the files of a .tar, which are held in memory."""

# What the standard library raises for torn, foreign or locked archives, and for a full disk.
_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, NotImplementedError, LookupError, OverflowError),
)


_Kind = Literal["file", "folder", "link", "device", "encrypted file"]


class _Member(NamedTuple):
    name: str
    size: int
    packed: int
    kind: _Kind
    stream: Callable[[], IO[bytes] | None]
    """Opens a file's bytes, as long as it is the latest member."""


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that can be unpacked."""
    return path.name.lower().endswith(SUFFIXES)


def archive_stem(name: str) -> str:
    """An archive's name without its suffix; `.tar.gz` is one."""
    return name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]


def most_unpacked(archive: Path) -> int:
    """Bytes that may come out of an archive, those of archives inside of it included."""
    return min(MOST_BYTES, max(RATIO_FROM, MOST_RATIO * archive.stat().st_size))


def unpack(archive: Path, folder: Path, most: int | None = None) -> int:
    """Unpacks an archive. Files that are whole from an earlier, broken attempt are kept.

    Args:
        archive: The .zip, .tar, .tar.gz or .tgz file.
        folder: Where to, made if it is missing. It belongs to this archive alone.
        most: Bytes that may come out of it, where the archive around it has others; the default is
            :func:`most_unpacked`.

    Returns:
        Bytes that came out of it.

    Raises:
        DataError: The archive is unreadable or encrypted, or may do harm: members with absolute
            names or `..`, links, devices, names that are there twice, or far more bytes than it
            takes packed. Nothing of such an archive is unpacked.
    """
    try:
        total = _refuse_harm(archive, most_unpacked(archive) if most is None else most)
        folder.mkdir(parents=True, exist_ok=True)
        with _opened(archive) as members:
            for member in members:
                if member.kind == "file":
                    _write(member, folder / _path(member.name))
    except _UNREADABLE as error:
        raise DataError(
            f"{archive}: expected a whole archive (.zip, .tar, .tar.gz) and room to unpack it, "
            f"found: {str(error) or type(error).__name__}. Download it again, or unpack it by hand "
            "and give the folder."
        ) from error
    return total


def _write(member: _Member, target: Path) -> None:
    """Streams a member to a file that gets its name when it is whole."""
    if target.is_file() and target.stat().st_size == member.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(".part")
    with part.open("wb") as file:
        if stream := member.stream():
            with stream:
                shutil.copyfileobj(stream, file)
    part.replace(target)


@contextmanager
def _opened(archive: Path, listing: bool = False) -> Iterator[Iterator[_Member]]:
    """The members, in the archive's order; for `listing` their bytes cannot be read."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed_zip:
            yield _zip_members(packed_zip)
        return
    with archive.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    # Not tarfile's own choice, which includes what unpacks to far more, or needs far more memory.
    with gzip.open(archive) if gzipped else archive.open("rb") as unpacked:
        stream = cast(IO[bytes], unpacked)
        bounded = cast(IO[bytes], _Headers(stream)) if listing else stream
        with tarfile.TarFile(fileobj=bounded) as packed_tar:
            yield _tar_members(packed_tar, archive.stat().st_size)


class _Headers:
    """Bytes of a tar whose members are listed: headers alone are read, and the rest is sought.

    tarfile keeps what it reads, and reads as much at once as a header says.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MOST_HEADERS
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"headers of more than {MOST_HEADERS >> 20} MiB")
        return self._stream.read(size)


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    kinds: dict[int, _Kind] = {
        0: "file",  # made on Windows
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "link",
    }
    for info in packed.infolist():
        kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "device")
        if kind == "file":
            kind = "folder" if info.is_dir() else "encrypted file" if info.flag_bits & 1 else kind
        yield _Member(
            info.filename, info.file_size, info.compress_size, kind, partial(packed.open, info)
        )


def _tar_members(packed: tarfile.TarFile, archive_size: int) -> Iterator[_Member]:
    while (info := packed.next()) is not None:
        packed.members = []  # type: ignore[attr-defined] # which would hold all of them
        kind: _Kind = "file" if info.isreg() else "folder" if info.isdir() else "device"
        if info.issym() or info.islnk():
            kind = "link"
        # A tar is packed as a whole, if at all.
        yield _Member(info.name, info.size, archive_size, kind, partial(packed.extractfile, info))


def _path(name: str) -> Path:
    """A member's path; archives made on Windows may hold backslashes."""
    return Path(*PurePosixPath(name.replace("\\", "/")).parts)


def _refuse_harm(archive: Path, most: int) -> int:
    """Looks at the members as they are declared; returns the bytes of all of them.

    Raises:
        DataError: Lists those that may do harm.
    """
    problems = Problems()
    seen: set[Path] = set()
    total = 0
    with _opened(archive, listing=True) as members:
        for count, member in enumerate(members, start=1):
            total += member.size
            likely = max(RATIO_FROM, MOST_RATIO * member.packed)
            if not 0 <= member.size <= likely or total > most or count > MOST_MEMBERS:
                problems.add("archives that unpack to too much, as this member shows", member.name)
                break  # the rest may be endless
            path = _path(member.name)
            if leads_out(member.name):
                problems.add("members whose name leads out of the folder", repr(member.name))
            elif member.kind not in ("file", "folder"):
                problems.add(f"{member.kind}s", member.name)
            elif member.kind == "file":
                if path in seen or not path.parts:
                    problems.add("names that are empty or there twice", repr(member.name))
                seen.add(path)
    problems.raise_any(
        f"{archive}: expected files and folders that stay inside one folder, at most "
        f"{MOST_BYTES >> 30} GiB and {MOST_RATIO} times the size of the archive",
        "Nothing was unpacked. Get the archive from its source again; if you trust it, unpack it "
        "by hand and give the folder.",
    )
    return total
