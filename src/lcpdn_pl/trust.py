"""Files may have come from elsewhere: which code they may name, and where their names may lead."""

import os
import pkgutil
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

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
_MOST = 100_000
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

_named: set[str] = set()
_allowed: set[str] = set()


def restrict_imports(arguments: Sequence[str] | None = None) -> None:
    """Lets settings import from :data:`TRUSTED` alone, and from packages that arguments name.

    From then on, whatever this process parses with jsonargparse is held to that, wherever it
    stands: also in files that a configuration names, in settings that take a function, and in
    checkpoints. A package of somebody else that a trusted one imports, such as ``torch.os``, is
    none of it.

    Args:
        arguments: The user's command line; ``None`` keeps to the one that was given before.
    """
    if arguments is not None:
        _named.clear()
        _named.update(named_packages(arguments))
    allowed = {*TRUSTED, *_named}
    if os.environ.get(ALLOW) == "1":
        if not _allowed:
            return
        # What was restricted before is not lifted but by name.
        allowed |= {module.name for module in pkgutil.iter_modules()} | sys.stdlib_module_names
        allowed = {name for name in allowed if name.isidentifier()} - {"jsonargparse"}
    set_parsing_settings(
        import_path_denylist=["*", *sorted(_allowed - allowed)],
        import_path_allowlist=sorted(allowed),
    )
    _allowed.clear()
    _allowed.update(allowed)


def named_packages(arguments: Sequence[str]) -> set[str]:
    """The packages of which arguments may name classes or functions; names of files are none."""
    values = (argument.partition("=")[2] or argument for argument in arguments)
    return {
        text.partition(".")[0]
        for value in values
        for _, text in _texts(_parsed(value))
        # Not Path.exists, which fails for a text that is too long for a name.
        if _DOTTED.fullmatch(text) and not os.path.exists(text)  # noqa: PTH110
    }


def refuse_foreign_code(path: Path) -> None:
    """Refuses a configuration that names classes of other packages than :data:`TRUSTED`.

    To be called before the file is parsed, since parsing imports what is named. What this does not
    find in the file itself, :func:`restrict_imports`, which it calls, keeps from being imported.

    Args:
        path: The file, YAML or JSON. One that cannot be read is left to the parser to complain of.

    Raises:
        ConfigError: Names what would be imported, and how to allow it; or the file is not UTF-8,
            or its aliases stand for more than a parser takes.
    """
    restrict_imports()
    if os.environ.get(ALLOW) == "1":
        return
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, yaml.YAMLError):
        return
    except Exception as error:  # as below; the parser would raise it, or read another text
        raise ConfigError(
            f"{path}: expected YAML as UTF-8 text, found a broken file ({error}). Correct it, or "
            "save it as UTF-8."
        ) from error
    refuse_endless(path, content, max(len(text), _MOST))
    foreign = [
        text
        for key, text in _texts(content)
        if key in _NAMING
        and "." in text
        and not text.startswith("--")  # arguments of a grid's label, which its reader looks at
        and text.partition(".")[0] not in {*TRUSTED, *_named}
    ]
    if foreign:
        raise ConfigError(
            f"{path} names code that would be imported and run: {', '.join(foreign)}. Expected "
            f"classes of {', '.join(TRUSTED)}. If you trust the file, set {ALLOW}=1 or, "
            "on the command line, add --allow_code."
        )


def refuse_endless(path: Path, content: Any, most: int = _MOST) -> None:
    """Refuses YAML whose aliases stand for more than is in it, perhaps for what they are in.

    Args:
        path: The file, for the message.
        content: What was read from it.
        most: How many values it may stand for.

    Raises:
        ConfigError: If there are more.
    """
    if sum(1 for _ in islice(_parts(content), most + 1)) > most:
        raise ConfigError(
            f"{path}: expected settings, found aliases that stand for more than {most:,} of them, "
            "or for what they are in. Write out what they stand for."
        )


def refuse_foreign_arguments(path: Path, arguments: Sequence[str]) -> None:
    """Refuses arguments out of a file that name code, or would allow others to be named.

    Args:
        path: The file, for the message.
        arguments: Arguments of ``lcpdn``, which would trust them as its user's.

    Raises:
        ConfigError: Names them, and how to allow them.
    """
    if os.environ.get(ALLOW) == "1":
        return
    foreign = sorted(named_packages(arguments) - {*TRUSTED})
    foreign += [argument for argument in arguments if argument.startswith("--allow_code")]
    if foreign:
        raise ConfigError(
            f"{path} names code that would be imported and run, of {', '.join(foreign)}; expected "
            f"files that exist, and classes of {', '.join(TRUSTED)}. If you trust the file, set "
            f"{ALLOW}=1 or, on the command line, add --allow_code."
        )


def leads_out(name: str) -> bool:
    """Whether a file of this name would lie outside the folder that it is written to."""
    path = PureWindowsPath(name)  # knows drives, and both slashes
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def _parsed(argument: str) -> Any:
    try:
        return yaml.safe_load(argument)
    except Exception:  # PyYAML also raises what dates and numbers that are none lead it to
        return argument


def _parts(content: Any) -> Iterator[Any]:
    """All values, aliases as often as they are named; endless where one names what it is in."""
    left = [content]
    while left:
        value = left.pop()
        yield value
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list):
            left += value


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """All strings and the settings that they are of; YAML's aliases, perhaps endless, once each."""
    seen: set[tuple[str, int]] = set()
    left = deque([("", content)])
    while left:
        key, value = left.popleft()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping | list) and (key, id(value)) not in seen:
            seen.add((key, id(value)))
            pairs = value.items() if isinstance(value, Mapping) else ((key, one) for one in value)
            left += [(str(name).rpartition(".")[2], inner) for name, inner in pairs]
