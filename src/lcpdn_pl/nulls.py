"""Settings that are null though nothing can be made of it, which the parser lets pass."""

from collections.abc import Iterator, Mapping
from pydoc import locate
from types import NoneType
from typing import Any, get_args, get_type_hints

from lcpdn_pl.errors import ConfigError

_OWN = "lcpdn_pl."
_NONE: Mapping[str, type] = {}


def refuse_nulls(config: Mapping[str, Any], sections: Mapping[str, type] = _NONE) -> None:
    """Refuses null where a class takes none.

    Args:
        config: Parsed settings by section, classes as ``class_path`` and ``init_args``. Of classes
            that are named so, those of this package are looked at.
        sections: Classes of the sections that name none, such as the trainer's.

    Raises:
        ConfigError: Lists the settings.
    """
    wrong = [
        name
        for section, settings in config.items()
        if isinstance(settings, Mapping)
        for name in _nulls(settings, section, sections.get(section))
    ]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} must not be null. Give a value, or leave the setting out for its "
            "default."
        )


def _nulls(settings: Mapping[str, Any], prefix: str, kind: Any = None) -> Iterator[str]:
    path = settings.get("class_path")
    if isinstance(path, str):
        settings = settings.get("init_args") or {}
        kind = locate(path) if path.startswith(_OWN) else None
    hints = {} if kind is None else get_type_hints(kind.__init__)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _nulls(value, f"{prefix}.{name}")
        elif value is None and name in hints and NoneType not in get_args(hints[name]):
            yield f"{prefix}.{name}"
