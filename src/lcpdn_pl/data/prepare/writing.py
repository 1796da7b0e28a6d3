"""A tree that appears whole or not at all, and in which nothing is ever overwritten."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.progress import Track, untracked
from lcpdn_pl.errors import DataError
from lcpdn_pl.files import sha256

CHECKSUMS = "CHECKSUMS.sha256"

Content = Path | bytes
"""A file to copy, or what to write."""


class Written(NamedTuple):
    """Numbers of files."""

    new: int
    there: int
    """They were there already, as they should be."""


def write_tree(
    files: Mapping[str, Content],
    out: Path,
    staging: Path,
    header: str,
    track: Track = untracked,
) -> Written:
    """Writes files, and their checksums as `CHECKSUMS.sha256` for `sha256sum --check`.

    All files are staged first, then moved. A run that is killed goes on with what it staged.

    Args:
        files: Contents by the path inside `out`.
        out: The tree's folder, which may exist and hold some or all of the files.
        staging: A folder on the same disk; what is in it from another run is checked.
        header: A line about the files, for their list.
        track: Shows the progress.

    Returns:
        How many were written.

    Raises:
        DataError: Files are there with another content; all are listed and nothing was changed. Or
            a file changed while it was copied.
    """
    tracked = track(files.items(), len(files), "Hashing files")
    digests = {name: _digest(content) for name, content in tracked}
    earlier = {
        name: digest
        for name, digest in _read_checksums(out / CHECKSUMS).items()
        if (out / name).exists()
    }
    missing = {name: files[name] for name in files if not (out / name).exists()}
    problems = Problems()
    for name, digest in digests.items():
        if name not in missing and not ((out / name).is_file() and sha256(out / name) == digest):
            problems.add("files that are there with another content", str(out / name))
    problems.raise_any(
        f"{out}: expected a new folder, or one that was prepared from the same source",
        "Nothing was overwritten. Give another folder with --out, or move these files away.",
    )
    if not missing and digests.items() <= earlier.items():
        return Written(0, len(files))
    for name, content in track(missing.items(), len(missing), "Copying files"):
        _stage(content, digests[name], staging / name)
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted((earlier | digests).items()))
    (staging / CHECKSUMS).write_text(f"# {header}\n{listed}", encoding="utf-8")
    _move(staging, [*missing, CHECKSUMS], out)
    return Written(len(missing), len(files) - len(missing))


def _digest(content: Content) -> str:
    return sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [line.split("  ", 1) for line in lines if not line.startswith("#")]
        return {name: digest for digest, name in pairs}
    except ValueError as error:
        raise DataError(
            f"{path}: expected a list of checksums as `lcpdn prepare` writes it, found another "
            "file. Move it away."
        ) from error


def _stage(content: Content, digest: str, target: Path) -> None:
    if target.is_file() and sha256(target) == digest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(".part")
    if isinstance(content, Path):
        shutil.copyfile(content, part)
    else:
        part.write_bytes(content)
    if sha256(part) != digest:
        raise DataError(
            f"{content if isinstance(content, Path) else part}: expected a file that stays as it "
            "is, found it changed while it was copied. Wait until it is whole, and try again."
        )
    part.replace(target)


def _move(staging: Path, names: list[str], out: Path) -> None:
    if not out.exists():
        wanted = {staging / name for name in names}
        for path in [path for path in staging.rglob("*") if path.is_file()]:
            if path not in wanted:
                path.unlink()
        out.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(out)
        return
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(out / name)
