"""Archives from strangers: all that they declare is looked at before the first byte is written."""

import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal, NamedTuple

from lcpdn_pl.data.problems import Problems
from lcpdn_pl.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MOST_BYTES = 64 * 2**30
"""What an archive may hold, unpacked."""
MOST_MEMBERS = 1_000_000
MOST_RATIO = 200
"""How many times its packed size a member or an archive of `RATIO_FROM` bytes may have."""
RATIO_FROM = 100 * 2**20

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


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive. Files that are whole from an earlier, broken attempt are kept.

    Args:
        archive: The .zip, .tar, .tar.gz or .tgz file.
        folder: Where to, made if it is missing. It belongs to this archive alone.

    Raises:
        DataError: The archive is unreadable or encrypted, or may do harm: members with absolute
            names or `..`, links, devices, names that are there twice, or far more bytes than it
            takes packed. Nothing of such an archive is unpacked.
    """
    try:
        _refuse_harm(archive)
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
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    """The members, in the archive's order."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed_zip:
            yield _zip_members(packed_zip)
    else:
        with tarfile.open(archive) as packed_tar:
            yield _tar_members(packed_tar, archive.stat().st_size)


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
    for info in packed:
        kind: _Kind = "file" if info.isreg() else "folder" if info.isdir() else "device"
        if info.issym() or info.islnk():
            kind = "link"
        # A tar is packed as a whole, if at all.
        yield _Member(info.name, info.size, archive_size, kind, partial(packed.extractfile, info))


def _path(name: str) -> Path:
    """A member's path; archives made on Windows may hold backslashes."""
    return Path(*PurePosixPath(name.replace("\\", "/")).parts)


def _leads_out(name: str) -> bool:
    path = PureWindowsPath(name)  # knows drives, and both slashes
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def _refuse_harm(archive: Path) -> None:
    """Looks at the members as they are declared.

    Raises:
        DataError: Lists those that may do harm.
    """
    problems = Problems()
    seen: set[Path] = set()
    limits = MOST_BYTES, max(RATIO_FROM, MOST_RATIO * archive.stat().st_size)
    total = 0
    with _opened(archive) as members:
        for count, member in enumerate(members, start=1):
            total += member.size
            most = max(RATIO_FROM, MOST_RATIO * member.packed)
            if member.size > most or total > min(limits) or count > MOST_MEMBERS:
                problems.add("archives that unpack to too much, as this member shows", member.name)
                break  # the rest may be endless
            path = _path(member.name)
            if _leads_out(member.name):
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
