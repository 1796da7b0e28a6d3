"""Plain commands of ``lcpdn``, one module each: a typed function whose docstring is its help."""

from collections.abc import Callable

COMMANDS: dict[str, Callable[..., None]] = {}
"""Functions by the name of their command."""
