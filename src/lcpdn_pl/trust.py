"""Configurations may have come from elsewhere, and name code: which of it is imported."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lcpdn_pl.errors import ConfigError

ALLOW = "LCPDN_ALLOW_CODE"
"""Environment variable that, set to 1, lets configurations name any code."""
TRUSTED = ("lcpdn_pl", "torch", "lightning", "torchmetrics")
"""Packages whose classes any configuration may name."""

_NAMING = {
    *("class_path", "model", "data", "network", "loss", "optimizer", "lr_scheduler"),
    *("logger", "callbacks", "strategy", "accelerator", "profiler", "plugins"),
}
"""Settings whose value is imported where it has a dot."""


def refuse_foreign_code(path: Path) -> None:
    """Refuses a configuration that names classes of other packages than :data:`TRUSTED`.

    To be called before the file is parsed, since parsing imports what is named.

    Args:
        path: The file, YAML or JSON. One that cannot be read is left to the parser to complain of.

    Raises:
        ConfigError: Names what would be imported, and how to allow it.
    """
    if os.environ.get(ALLOW) == "1":
        return
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    foreign = [name for name in _imported(content) if name.partition(".")[0] not in TRUSTED]
    if foreign:
        raise ConfigError(
            f"{path} names code that would be imported and run: {', '.join(foreign)}. Expected "
            f"classes of {', '.join(TRUSTED)}. If you trust the file, set {ALLOW}=1 or, "
            "on the command line, add --allow_code."
        )


def _imported(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield from _imported(inner, str(inner_key).rpartition(".")[2])
    elif isinstance(value, list):
        for inner in value:
            yield from _imported(inner, key)
    elif isinstance(value, str) and key in _NAMING and "." in value:
        yield value
