"""What a download consists of: the files of a folder, and of the archives that lie in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from lcpdn_pl.data.lvit import is_litter
from lcpdn_pl.data.prepare.archives import (
    SUFFIXES,
    archive_stem,
    is_archive,
    most_unpacked,
    unpack,
)
from lcpdn_pl.errors import DataError
from lcpdn_pl.files import sha256

_MOST_NESTED = 3  # MoNuSeg is handed out as an archive of archives


class File(NamedTuple):
    """A file of the source."""

    path: Path
    inside: PurePath
    """Its place in the source: the folders and archives that it lies in, and its name."""


def find_files(source: Path, scratch: Path) -> list[File]:
    """Lists the files of a source, after unpacking its archives.

    Hidden files and what file managers leave behind are left out. Linked folders are followed, each
    folder once.

    Args:
        source: A folder as downloaded, with or without archives in it, or an archive.
        scratch: Folder in which archives are unpacked, each under its checksum. It may hold what an
            earlier, broken attempt unpacked.

    Returns:
        Files in the order of their names.

    Raises:
        DataError: The source is neither, cannot be read, or an archive is refused.
    """
    if not (source.is_dir() or (source.is_file() and is_archive(source))):
        found = "another file" if source.is_file() else "no such file or folder"
        raise DataError(
            f"{source}: expected a folder or an archive ({', '.join(SUFFIXES)}), found {found}. "
            "Correct the path, or unpack the file and give the folder."
        )
    try:
        return list(_files(source, PurePath(), scratch, set()))
    except OSError as error:
        raise DataError(
            f"{source}: expected files that can be read, found: {error}. Correct the permissions."
        ) from error


@dataclass
class _Room:
    """Bytes that may still come out of an archive and of all those inside of it."""

    left: int


def _files(
    path: Path,
    inside: PurePath,
    scratch: Path,
    seen: set[Path],
    depth: int = 0,
    room: _Room | None = None,
) -> Iterator[File]:
    if path.is_dir():
        real = path.resolve()
        if real not in seen:
            seen.add(real)
            for entry in sorted(path.iterdir()):
                if not is_litter(entry.name):
                    yield from _files(entry, inside / entry.name, scratch, seen, depth, room)
    elif is_archive(path) and depth < _MOST_NESTED:
        folder = scratch / sha256(path)
        room = room or _Room(most_unpacked(path))
        room.left -= unpack(path, folder, room.left)
        place = inside.parent / archive_stem(path.name)
        yield from _files(folder, place, scratch, seen, depth + 1, room)
    else:
        yield File(path, inside)
