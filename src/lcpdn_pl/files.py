"""Files that are written whole or not at all, and their checksums."""

import hashlib
import os
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all; what was there before stays until then.

    Args:
        path: The file; its folder is made.
        content: Text is written as UTF-8.

    Raises:
        OSError: Names the file, if the disk is full or the like.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # so that no crash leaves a renamed but empty file
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk's error names none
        raise


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, dpi=130, format="png")
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    write_whole(path, figure_png(figure))


def sha256(path: Path) -> str:
    """The checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
