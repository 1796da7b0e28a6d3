"""Features of fixed images, kept on disk and read through memory maps."""

import logging
import os
import re
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.files import write_whole

log = logging.getLogger(__name__)

_ENTRY = re.compile(r"[0-9a-f]{32}\.safetensors")
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.safetensors\.\d+\.partial")  # as write_whole names them
_STALE_PARTIAL = 3600.0  # seconds after which a half-written file has no writer any more


class FeatureStore:
    """A folder with one file of feature maps an entry, whose key is 32 hexadecimal digits.

    Any number of processes may share it: an entry appears whole or not at all, and whoever finds
    none computes it. An entry that is torn, or is not what its writer wrote, counts as none; its
    checksum is verified when a process first reads it. Where the limit is reached, entries that no
    process has used since this one started give way, the longest unused first; if that is not
    enough, new entries are not stored, since cycling over more images than fit would otherwise
    throw each of them out just before its turn. Other files in the folder are left alone.

    Args:
        folder: Where the entries lie; made for the first one that is written, so that a network
            whose features are only computed asks for no folder.
        limit: GiB that all entries together may take.

    Attributes:
        hits: Entries read so far.
        misses: Entries asked for in vain so far.
    """

    def __init__(self, folder: str | Path, limit: float = 20.0) -> None:
        self.folder = Path(folder)
        self.limit = int(limit * 2**30)
        self.hits = 0
        self.misses = 0
        self._started = time.time()
        self._verified: set[str] = set()
        self._full = False

    def read(self, key: str) -> list[Tensor] | None:
        """The feature maps of an entry, memory-mapped and read-only by contract.

        Returns:
            ``None`` if there is no such entry, or none that can be trusted.
        """
        path = self._path(key)
        try:
            maps, checksum = _load(path)
            if key not in self._verified and checksum != _checksum(maps):
                raise SafetensorError("checksum differs")  # noqa: TRY301 - as a torn file would
        except FileNotFoundError:
            self.misses += 1
            return None
        except (SafetensorError, OSError, RuntimeError) as error:  # the last of odd shapes
            log.warning("Cached features %s are torn (%s); computing them again.", path, error)
            with suppress(OSError):  # another user's, whose folder it is
                path.unlink(missing_ok=True)
            self.misses += 1
            return None
        with suppress(OSError):  # another user's; it only counts as unused for longer
            os.utime(path)
        self._verified.add(key)
        self.hits += 1
        return maps

    def write(self, key: str, maps: Sequence[Tensor]) -> None:
        """Stores an entry, unless there is no room for it or it cannot be written.

        Raises:
            ConfigError: If the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: expected a folder for features, found none that can be made "
                f"({error}). Correct feature_cache, or set it to null."
            ) from error
        tensors = {str(i): m.detach().cpu().contiguous() for i, m in enumerate(maps)}
        content = save(tensors, {"checksum": _checksum(list(tensors.values()))})
        try:
            if self._make_room(len(content)):
                write_whole(self._path(key), content)
        except OSError as error:
            log.warning("Features could not be cached in %s: %s", self.folder, error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self, size: int) -> bool:
        entries = []
        for entry in os.scandir(self.folder):
            if not (_ENTRY.fullmatch(entry.name) or _PARTIAL.fullmatch(entry.name)):
                continue  # a configuration may have named a folder of something else
            try:
                status = entry.stat()
            except FileNotFoundError:  # another process was faster
                continue
            entries.append((status.st_mtime, status.st_size, Path(entry.path)))
        total = size + sum(length for _, length, _ in entries)
        now = time.time()
        for used, length, path in sorted(entries):
            abandoned = path.suffix == ".partial" and now - used > _STALE_PARTIAL
            if abandoned or (total > self.limit and used < self._started):
                try:
                    path.unlink(missing_ok=True)
                except OSError:  # another user's, and takes its room still
                    continue
                total -= length
        if total > self.limit and not self._full:
            self._full = True
            log.warning(
                "The feature cache %s is full (%.1f GiB); further features are computed each time. "
                "Raise its limit or empty the folder.",
                self.folder,
                self.limit / 2**30,
            )
        return total <= self.limit


def _load(path: Path) -> tuple[list[Tensor], str | None]:
    with safe_open(path, framework="pt") as file:
        maps = [file.get_tensor(str(index)) for index in range(len(file.keys()))]
        return maps, (file.metadata() or {}).get("checksum")


def _checksum(maps: Sequence[Tensor]) -> str:
    value = 0
    for tensor in maps:
        value = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
