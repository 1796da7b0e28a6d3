"""A manifest as a samples table: one's own data, listed in a .csv or .jsonl file."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.report_tables import read_cells, refuse_half_characters, refuse_large
from lcpdn_pl.errors import DataError
from lcpdn_pl.trust import leads_out

SPLITS = ("train", "val", "test", "predict")

_REQUIRED = ("image", "mask", "text", "split")
_OPTIONAL = ("name", "source")
_Row = dict[str, str]


def _csv_rows(path: Path) -> dict[str, _Row]:
    header, rows = read_cells(path)
    titles = [title.lower() for title in header]
    if any(titles.count(title) > 1 for title in (*_REQUIRED, *_OPTIONAL)):
        raise DataError(f"{path}: expected each column once, found {header}. Rename one.")
    # Counted as a spreadsheet does: the header is row 1.
    return {
        f"row {place}": dict(zip(titles, cells, strict=True))
        for place, cells in enumerate(rows, start=2)
    }


def _json_row(line: str) -> _Row:
    row = json.loads(line)
    refuse_half_characters(row)
    if not isinstance(row, dict):
        raise TypeError("no object")
    row = {key.strip().lower(): "" if value is None else value for key, value in row.items()}
    for key in (*_REQUIRED, *_OPTIONAL):
        if not isinstance(row.get(key, ""), str):
            raise TypeError(f"{key} is no string")
    return {
        key: value.strip() if isinstance(value, str) else json.dumps(value)
        for key, value in row.items()
    }


def _json_rows(path: Path) -> dict[str, _Row]:
    problems = Problems()
    rows: dict[str, _Row] = {}
    try:
        # Not splitlines(): it also breaks at separators that a JSON string may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, found bytes of another encoding ({error}). Save it as "
            "UTF-8."
        ) from error
    for place, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows[f"line {place}"] = _json_row(line)
        except (ValueError, TypeError, RecursionError) as error:
            problems.add("broken lines", f"line {place} ({error})")
    problems.raise_any(
        f"{path}: expected one JSON object with string values in each line", "Correct these lines."
    )
    return rows


def _check_columns(path: Path, rows: dict[str, _Row]) -> None:
    found = list(dict.fromkeys(title for row in rows.values() for title in row))
    missing = [title for title in _REQUIRED if title not in found]
    if rows and missing:
        raise DataError(
            f"{path}: expected the columns {', '.join(_REQUIRED)} (and name, if the image's stem "
            f"will not do), found {', '.join(found)}. Add {', '.join(missing)}."
        )
    if not rows:
        raise DataError(
            f"{path}: expected the columns {', '.join(_REQUIRED)} and a row for each image, found "
            "no row. Add the rows."
        )


def _sample(
    place: str, row: _Row, locate: Callable[[str], tuple[str, bool]], problems: Problems
) -> _Row:
    image, mask, text, split = (row.get(title, "") for title in _REQUIRED)
    for title, value in (("image", image), ("mask", mask)):
        if value and not locate(value)[1]:
            problems.add("missing files", f"{locate(value)[0]} ({place}, {title})")
    if not image:
        problems.add("rows without an image", place)
    if not mask and split != "predict":
        problems.add("rows without a mask, which only the split predict may lack", place)
    if not text:
        problems.add("rows without a text", place)
    if split not in SPLITS:
        problems.add(f"splits other than {', '.join(SPLITS)}", f"{split or 'none'} ({place})")
    if leads_out(name := row.get("name", "") or Path(image).stem):
        # Predictions are written under it.
        problems.add("names that lead out of the folder", f"{name!r} ({place})")
    return {
        "image": locate(image)[0],
        "mask": locate(mask)[0] if mask else "",
        "text": text,
        "split": split,
        "name": name,
        "source": row.get("source", ""),
    }


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Reads the rows of a manifest as they are, with all their columns, as text.

    Args:
        path: The .csv or .jsonl file.

    Returns:
        Rows by their place in the file, such as `row 2`; titles are in lower case.

    Raises:
        DataError: The manifest is missing or unreadable.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: expected a .csv or .jsonl manifest. Convert it to one of them.")
    if not path.is_file():
        raise DataError(f"{path}: expected a manifest, found no such file. Correct the path.")
    refuse_large(path)
    return readers[path.suffix.lower()](path)


def list_manifest(path: Path) -> tuple[pd.DataFrame, Problems]:
    """Lists what a manifest names, and everything that is wrong with its rows.

    Args:
        path: The .csv or .jsonl file.

    Returns:
        Samples table as of `read_manifest`, in which anything may be empty, and what is missing.

    Raises:
        DataError: The manifest is missing or unreadable, or lacks a column or every row.
    """
    rows = read_rows(path)
    _check_columns(path, rows)
    problems = Problems()

    @cache
    def locate(value: str) -> tuple[str, bool]:
        file = path.parent / value
        return str(file), os.path.isfile(file)  # noqa: PTH113 - Path's raises at a long name

    samples = [_sample(place, row, locate, problems) for place, row in rows.items()]
    return pd.DataFrame(samples), problems


def read_manifest(path: Path) -> pd.DataFrame:
    """Reads a manifest: the columns image, mask, text, split, and optionally name and source.

    `image` and `mask` are absolute, or relative to the manifest's folder. `mask` may be empty only
    for the split predict; an empty `name` is the image's stem; `source` says where a text comes
    from. Further columns are not read.

    Args:
        path: The .csv file, or the .jsonl file with one object a line.

    Returns:
        Samples table in the manifest's order.

    Raises:
        DataError: The manifest is missing or unreadable, lacks a column or every row, names files
            that are missing, has rows without image, mask, text or a known split, or names with
            `..`. Everything is listed, by kind.
    """
    samples, problems = list_manifest(path)
    problems.raise_any(
        f"{path}: expected an image, its mask, a text and a split in each row",
        "Correct these rows; paths are relative to the manifest's folder.",
    )
    return samples
