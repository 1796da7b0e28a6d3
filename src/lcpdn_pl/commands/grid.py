"""Grids of runs: what a grid file says, and how far each of its cells is."""

import json
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.files import write_whole
from lcpdn_pl.trust import leads_out, refuse_foreign_arguments

STATE = "cell.json"

_LONGEST = 60  # characters, in any script no more bytes than a file system takes
_NO_NAMES = {"", "."}
_GIVEN = {"--run_folder", "--ckpt_path"}


@dataclass
class Progress:
    """How far a cell is, kept in its run folder as :data:`STATE`.

    Attributes:
        fit: Arguments of its ``lcpdn fit``.
        fitted: Whether training ended.
        tested: Arguments of each finished ``lcpdn test``, by label.
        seconds: Time of ``fit`` and of each test.

    Raises:
        TypeError: If one is of another type.
    """

    fit: list[str]
    fitted: bool = False
    tested: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = (self.tested, dict), (self.seconds, dict), (self.fitted, bool)
        if not all(isinstance(part, kind) for part, kind in parts):
            raise TypeError("its parts are of other types")
        for words in (self.fit, *self.tested.values()):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError(f"{words!r} are no arguments")
        if not all(isinstance(seconds, int | float) for seconds in self.seconds.values()):
            raise TypeError(f"{self.seconds} are no times")


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        folder: Its run folder.
        name: Its labels, joined by slashes.
        fit: Arguments of its ``lcpdn fit``.
        tests: Arguments of each of its ``lcpdn test``, by label.
    """

    folder: Path
    name: str
    fit: list[str]
    tests: dict[str, list[str]]

    def read(self) -> Progress:
        """How far the cell is.

        Raises:
            ConfigError: If its folder holds something else, or a run with other arguments.
        """
        path = self.folder / STATE
        if not path.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise ConfigError(
                    f"{self.folder} holds files, but no {STATE}: it is no cell of a grid. Move it "
                    "away, or give the grid another `out`."
                )
            return Progress(self.fit)
        try:
            progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} is broken ({error}). Remove the folder.") from error
        made, asked = {"": progress.fit} | progress.tested, {"": self.fit} | self.tests
        for label in made.keys() & asked.keys():
            if made[label] != asked[label]:
                raise ConfigError(
                    f"{self.folder} was made with `{shlex.join(made[label])}`, but the grid now "
                    f"says `{shlex.join(asked[label])}`. Remove the folder, or give the grid "
                    "another `out`."
                )
        return progress

    def write(self, progress: Progress) -> None:
        """Keeps how far the cell is."""
        write_whole(self.folder / STATE, json.dumps(asdict(progress), indent=1) + "\n")

    def done(self) -> bool:
        """Whether nothing is left to do."""
        progress = self.read()
        return progress.fitted and self.tests.keys() <= progress.tested.keys()


def read_grid(path: Path) -> list[Cell]:
    """Reads a grid: every combination of the labels of its axes is a cell.

    ``grids`` lists blocks; each maps the names of axes to labels, and each label to arguments of
    ``lcpdn fit``, written as on a command line. ``tests`` maps labels to arguments of ``lcpdn
    test`` and may be absent, which is one plain test. ``out`` is the folder in which a cell is
    ``<label of the first axis>/<label of the second>/...``.

    Args:
        path: The YAML file.

    Raises:
        ConfigError: If it is not of this form, two cells have one name, or arguments name code of
            other packages, see :mod:`lcpdn_pl.trust`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML also raises what dates and numbers that are none lead it to
        raise ConfigError(f"{path} is no readable YAML file: {error}") from error
    parts = dict(content) if isinstance(content, dict) else {}
    parts = {key: part for key, part in parts.items() if not str(key).startswith(".")}
    if parts.keys() not in ({"out", "grids"}, {"out", "grids", "tests"}):
        raise ConfigError(
            f"{path}: expected `out`, `grids` and, if wanted, `tests`, found "
            f"{', '.join(map(str, parts)) or 'none of them'}. See configs/benchmark/ for examples; "
            "a key that starts with a dot may hold what is repeated."
        )
    out = _folder(path, parts["out"])
    tests = _arguments(path, "tests", parts.get("tests", {"right": ""}))
    cells: dict[str, Cell] = {}
    blocks = parts["grids"]
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise ConfigError(f"{path}: expected `grids` to be a list of axes, found {blocks!r}.")
    for block in blocks:
        axes = [_arguments(path, axis, labels) for axis, labels in block.items()]
        for choice in product(*(axis.items() for axis in axes)):
            name = "/".join(label for label, _ in choice)
            if name in cells:
                raise ConfigError(f"{path}: two cells are called {name}. Rename a label.")
            fit = [argument for _, arguments in choice for argument in arguments]
            cells[name] = Cell(out / name, name, fit, tests)
    for name in cells:
        if above := [str(p) for p in PurePosixPath(name).parents if str(p) in cells]:
            raise ConfigError(
                f"{path}: the cell {name} would lie in the folder of another one, {above[0]}. Give "
                "all blocks of `grids` that share labels the same axes."
            )
    return list(cells.values())


def _folder(path: Path, out: Any) -> Path:
    try:
        folder = Path(out)
        with suppress(FileNotFoundError):
            folder.stat()
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(
            f"{path}: expected `out` to name a folder, found {out!r} ({error}). Correct it."
        ) from error
    return folder


def _arguments(path: Path, axis: str, labels: Any) -> dict[str, list[str]]:
    if not isinstance(labels, dict) or not labels:
        raise ConfigError(
            f"{path}: expected `{axis}` to map labels to arguments, found {labels!r}. Write, for "
            "example, `seed: {0: --seed_everything 0, 1: --seed_everything 1}`."
        )
    arguments: dict[str, list[str]] = {}
    for label, text in labels.items():
        try:
            arguments[str(label)] = shlex.split("" if text is None else text)
        except (ValueError, AttributeError) as error:
            raise ConfigError(
                f"{path}: expected arguments as on a command line for `{label}` of `{axis}`, found "
                f"{text!r} ({error}). Correct them."
            ) from error
    for label, words in arguments.items():
        if leads_out(label) or len(label) > _LONGEST or label in _NO_NAMES or "/" in label:
            raise ConfigError(
                f"{path}: expected labels of `{axis}` that name a folder inside of `out`, in at "
                f"most {_LONGEST} characters and without a slash, found {label!r}. Rename it."
            )
        if given := {word.partition("=")[0] for word in words if _is_given(word)}:
            raise ConfigError(
                f"{path}: `{axis}` gives {', '.join(sorted(given))}, but a cell's folder follows "
                "from `out` and its labels. Leave it out."
            )
        refuse_foreign_arguments(path, words)
    return arguments


def _is_given(word: str) -> bool:
    """Whether the parser would take a word for an option of :data:`_GIVEN`, or for their end.

    It also takes the beginning of an option's name for it.
    """
    option = word.partition("=")[0]
    return option.startswith("--") and any(name.startswith(option) for name in _GIVEN)
