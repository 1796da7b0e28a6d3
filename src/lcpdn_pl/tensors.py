"""Files of ``torch.save`` that may have come from elsewhere: they are read, not unpacked or run."""

from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch

_ARCHIVE = b"PK\3\4"  # by which torch.load tells its archives from older pickles
# What ends an archive: of a large one where its list of parts is, then of each where that is.
_LOCATOR, _END = b"PK\6\7", b"PK\5\6"
_SIZE_64, _LOCATOR_SIZE, _END_SIZE = 56, 20, 22


def read_tensors(path: Path) -> Any:
    """Reads onto the CPU what ``torch.save`` wrote; code in it is refused, not run.

    Args:
        path: The file.

    Raises:
        ValueError: If more would come out of the file than is in it.
        Exception: Whatever torn bytes lead torch's unpickler to.
    """
    refuse_inflating(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def refuse_inflating(path: Path) -> None:
    """Refuses an archive of torch's that is compressed, which ``torch.save`` never does.

    A few megabytes would fill the memory otherwise, as ``torch.load`` reads such an archive.

    Args:
        path: The file. What is no such archive is let through.

    Raises:
        ValueError: If a part is compressed, the parts are larger than the file, or Python and torch
            could look up the parts at different places.
        BadZipFile: If it is an archive by its first bytes alone.
    """
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            return
        size = file.seek(0, 2)
        with ZipFile(file) as archive:
            parts = archive.infolist()
        end = size - _END_SIZE
        file.seek(max(0, end - _LOCATOR_SIZE))
        locator, last = file.read(_LOCATOR_SIZE), file.read()
    if any(part.compress_type != ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed, which those of torch.save are not")
    if sum(part.file_size for part in parts) > size:
        raise ValueError("its parts are said to be larger than the file")
    # Python looks for the list of parts before the end, torch where the end says that it is. They
    # find the same one where nothing follows the end, and the first part starts the file.
    stated = int.from_bytes(locator[8:16], "little")
    if (
        not last.startswith(_END)
        or any(last[-2:])
        or (locator.startswith(_LOCATOR) and stated != end - _LOCATOR_SIZE - _SIZE_64)
        or min((part.header_offset for part in parts), default=0)
    ):
        raise ValueError("it is no archive as torch.save writes it")
