"""Files that must stay as they were when a run began."""

import os
from collections.abc import Iterable
from datetime import datetime

from lcpdn_pl.errors import DataError


class Stamps:
    """Size and time of change of files.

    Args:
        paths: The files; empty ones stand for none.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._before = {path: _stamp(path) for path in paths if path}

    def refuse_changes(self, *paths: str) -> None:
        """Looks at some of the files again.

        Raises:
            DataError: If one has changed. What is not there is left to who reads it.
        """
        for path in filter(None, paths):
            before, now = self._before[path], _stamp(path)
            if before is not None and now is not None and before != now:
                raise DataError(
                    f"{path} has changed since the run began: expected {before[0]} bytes of "
                    f"{_time(before[1])}, found {now[0]} of {_time(now[1])}. Put the file back and "
                    "go on with the run, or start it anew."
                )


def _stamp(path: str) -> tuple[int, int] | None:
    """Bytes, and nanoseconds of the time of change."""
    try:
        status = os.stat(path)  # noqa: PTH116 - one call for each image that is read
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9).astimezone().isoformat(" ", "milliseconds")
