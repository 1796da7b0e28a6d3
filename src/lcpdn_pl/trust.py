"""Files may have come from elsewhere: which code they may name, and where their names may lead."""

import os
import pkgutil
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path, PureWindowsPath
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

from lcpdn_pl.errors import ConfigError

ALLOW = "LCPDN_ALLOW_CODE"
"""Environment variable that, set to 1, lets configurations name any code."""
TRUSTED = (
    *("lcpdn_pl.models", "lcpdn_pl.tasks", "lcpdn_pl.losses", "lcpdn_pl.callbacks"),
    *("lcpdn_pl.data", "torch.optim", "torch.optim.lr_scheduler"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers", "lightning.pytorch.strategies"),
    *("lightning.pytorch.profilers", "lightning.pytorch.accelerators", "lightning.pytorch.plugins"),
)
"""Modules whose own classes any configuration may name, but none of their functions."""

_NAMING = {
    *("class_path", "model", "data", "network", "loss", "optimizer", "lr_scheduler"),
    *("logger", "callbacks", "strategy", "accelerator", "profiler", "plugins"),
}
"""Settings whose value is imported where it has a dot."""
_MOST = 100_000

_named: set[str] = set()
_allowed: set[str] = set()


def restrict_imports(arguments: Sequence[str] | None = None) -> None:
    """Lets settings import the classes of :data:`TRUSTED` alone, and what arguments name.

    From then on, whatever this process parses with jsonargparse is held to that, wherever it
    stands: also in files that a configuration names, in settings that take a function, and in
    checkpoints. Functions and methods are none of it, since a setting may have them called with
    arguments of its own: ``torch.load`` unpickles. Nor is what a trusted module imports, such as
    ``torch.optim.adam.torch``.

    Args:
        arguments: The user's command line; ``None`` keeps to the one that was given before.
    """
    if arguments is not None:
        _named.clear()
        _named.update(*(_freed(name) for name in named_code(arguments)))
    allowed = {*_classes(), *_named}
    allows_all = os.environ.get(ALLOW) == "1"
    if allows_all:
        if not _allowed:
            return
        # What was restricted before is not lifted but by name.
        names = {module.name for module in pkgutil.iter_modules()} | sys.stdlib_module_names
        allowed |= {name for name in names if name.isidentifier()} - {"jsonargparse"} | _members()
    if allowed == _allowed:  # as before; to say so again would take a while
        return
    set_parsing_settings(
        import_path_denylist=["*", *sorted((_allowed | _members()) - allowed)],
        import_path_allowlist=sorted(allowed),
        # A setting that takes anything would call what it names, with no type to hold it to.
        instantiate_subclass_spec_in_any=allows_all,
    )
    _allowed.clear()
    _allowed.update(allowed)


def named_code(arguments: Sequence[str]) -> set[str]:
    """What may name classes or functions in arguments; names of files are none."""
    values = (argument.partition("=")[2] or argument for argument in arguments)
    return {
        text
        for value in values
        for _, text in _texts(_parsed(value))
        # Not Path.exists, which fails for a text that is too long for a name.
        if _is_dotted(text) and not os.path.exists(text)  # noqa: PTH110
    }


def refuse_foreign_code(path: Path) -> None:
    """Refuses a configuration that names other code than the classes of :data:`TRUSTED`.

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
        and text not in _classes()
        and not any(f"{text}.".startswith(f"{name}.") for name in _named)
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
    foreign = sorted(named_code(arguments) - _classes().keys())
    foreign += [argument for argument in arguments if argument.startswith("--allow_code")]
    if foreign:
        raise ConfigError(
            f"{path} names code that would be imported and run: {', '.join(foreign)}. Expected "
            f"files that exist, and classes of {', '.join(TRUSTED)}. If you trust the file, set "
            f"{ALLOW}=1 or, on the command line, add --allow_code."
        )


def leads_out(name: str) -> bool:
    """Whether a file of this name would lie outside the folder that it is written to."""
    path = PureWindowsPath(name)  # knows drives, and both slashes
    return bool(path.anchor) or ".." in path.parts or "\0" in name


@cache
def _classes() -> dict[str, type]:
    """The classes of :data:`TRUSTED` by name: as the module shows them, and where they lie."""
    classes: dict[str, type] = {}
    for module in TRUSTED:
        for value in vars(import_module(module)).values():
            if isinstance(value, type) and f"{value.__module__}.".startswith(f"{module}."):
                classes[f"{module}.{value.__name__}"] = value
                classes[f"{value.__module__}.{value.__name__}"] = value
    return classes


@cache
def _members() -> frozenset[str]:
    """What those classes have, which jsonargparse allows along with them: methods are functions."""
    return frozenset(
        f"{name}.{member}"
        for name, value in _classes().items()
        for member in {*dir(value), *dir(type(value))}
        if member.isidentifier()
    )


def _freed(name: str) -> set[str]:
    """What a name on the command line frees: itself and where it lies, or the user's package."""
    package = name.partition(".")[0]
    if package == "jsonargparse":  # which would not have it
        return set()
    if package not in sys.modules:
        # To import it to see where the name lies would run what may be the name of a folder.
        return {package}
    freed = {name}
    with suppress(Exception):  # there may be no such thing, and modules raise what they like
        found: Any = locate(name)
        freed.add(f"{found.__module__}.{found.__qualname__}")
    return {path for path in freed if _is_dotted(path)}


def _is_dotted(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


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
