"""Settings that are null though nothing can be made of it, which the parser lets pass."""

from collections.abc import Iterator, Mapping
from pydoc import locate
from types import NoneType
from typing import Any, get_args, get_type_hints

from lcpdn_pl.errors import ConfigError

_OWN = "lcpdn_pl."


def refuse_nulls(config: Mapping[str, Any]) -> None:
    """Refuses null where a class of this package takes none.

    Args:
        config: Parsed settings, classes as ``class_path`` and ``init_args``.

    Raises:
        ConfigError: Lists the settings.
    """
    wrong = list(_nulls(config, ""))
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} must not be null. Give a value, or leave the setting out for its "
            "default."
        )


def _nulls(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    given = config.get("init_args") or {}
    path = config.get("class_path")
    if isinstance(path, str) and path.startswith(_OWN):
        hints = get_type_hints(locate(path).__init__)  # type: ignore[misc]
        for name, value in given.items():
            takes = hints.get(name)
            if value is None and takes is not None and NoneType not in get_args(takes):
                yield f"{prefix}{name}"
    for name, value in (given or config).items():
        if isinstance(value, Mapping):
            yield from _nulls(value, f"{prefix}{name}.")
