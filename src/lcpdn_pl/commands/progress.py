"""Progress bars of commands."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lcpdn_pl.data.progress import Track


@contextmanager
def progress_bars(hidden: bool = False) -> Iterator[Track]:
    """Bars that vanish when the work is done, on a terminal's standard error alone.

    Args:
        hidden: Show none on a terminal either.
    """
    terminal = Console(stderr=True)
    hidden = hidden or not terminal.is_terminal
    with Progress(console=terminal, transient=True, disable=hidden) as progress:

        def track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
            return progress.track(items, total, description=what)

        yield track
