"""How long work on data shows how far it has come, without knowing of a terminal."""

from collections.abc import Callable, Iterable
from typing import Any

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Passes on an iterable of so many items, and shows how far that has come."""


def untracked(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:  # noqa: ARG001
    """A `Track` that shows nothing."""
    return items
