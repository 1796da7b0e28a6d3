"""Report tables: one line of text for each image, from a spreadsheet, a CSV or a JSON file."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple
from xml.parsers import expat

from openpyxl.chartsheet import Chartsheet
from openpyxl.reader.excel import ExcelReader

from lcpdn_pl.data.problems import Problems, listing
from lcpdn_pl.errors import DataError

_NAME_COLUMNS = ("image",)
_TEXT_COLUMNS = ("description", "text")
_SOURCE_COLUMN = "source"
_MOST_CELLS = 10_000_000
MOST_BYTES = 64 * 2**20
"""Of a table; in memory it takes many times as much."""

# Bytes of a part other than rows and texts. Styles are the largest: some KB, and hundreds of KB
# where a workbook was copied together for years; this is room for some 15,000 formats of cells.
# Made of the smallest elements that there are, it becomes a tree of 250 MB.
_MOST_WHOLE = 2 * 2**20
# Of a sheet, or of all its texts: about ten an image. A row that never ends becomes one tree.
_MOST_ELEMENTS = 5_000_000
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Report(NamedTuple):
    """A row of a report table."""

    text: str
    source: str
    """What the column `source` says, `mask` for what was made from the mask; "" for nothing."""


def _csv_cells(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.reader(lines, strict=True, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, found bytes of another encoding ({error}). Save the "
            "table as `CSV UTF-8`."
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{path}: expected comma-separated values, found a broken line ({error}). Put a text "
            "that holds commas between double quotes."
        ) from error


class _Counted(io.BufferedIOBase):
    """A part of a spreadsheet that is read piece by piece, and its elements counted on the way.

    Args:
        part: The part, opened.
        path: Of the spreadsheet, for the message.
    """

    def __init__(self, part: IO[bytes], path: Path) -> None:
        self._part = part
        self._path = path
        self._elements = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._count

    def read(self, size: int | None = -1) -> bytes:
        """The next piece.

        Raises:
            DataError: If it has more elements than any table of reports.
        """
        content = self._part.read(-1 if size is None else size)
        self._parser.Parse(content, not content)
        return content

    def _count(self, _name: str, _attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise DataError(
                f"{self._path}: expected at most {_MOST_ELEMENTS:,} cells, texts and other XML "
                "elements of a sheet, found more. Delete what lies far below or far to the right "
                "of the table, or save it as .csv."
            )

    def close(self) -> None:
        """Closes the part."""
        self._part.close()
        super().close()


class _Parts(zipfile.ZipFile):
    """The parts of a spreadsheet; those that are read whole are to be small.

    openpyxl makes trees of them, which take a hundred times their size: of styles, properties, the
    list of sheets. Rows and shared strings are opened and read piece by piece, of which a tree
    remains too, and pictures and the like not at all.

    Args:
        file: The spreadsheet.
        path: For messages.

    Raises:
        DataError: If a part is packed as no spreadsheet is.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path
        for part in self.infolist():
            # The other kinds are unpacked by the piece, whatever comes out of it.
            if part.compress_type not in _PACKED:
                raise DataError(
                    f"{path}: expected parts that are stored or deflated, as in every .xlsx "
                    f"spreadsheet, found {part.filename!r} packed otherwise. Save the table again "
                    "as .xlsx or as .csv."
                )

    def open(self, *name: Any, **options: Any) -> _Counted:  # type: ignore[override]
        """Opens a part to be read piece by piece."""
        return _Counted(super().open(*name, **options), self._path)

    def read(self, name: str | zipfile.ZipInfo, pwd: bytes | None = None) -> bytes:
        """Reads a part whole.

        Raises:
            DataError: If it is larger than that of any workbook.
        """
        with self.open(name, pwd=pwd) as part:
            # By what it unpacks to; what it states of itself need not be so.
            content = part.read(_MOST_WHOLE + 1)
        if len(content) > _MOST_WHOLE:
            raise DataError(
                f"{self._path}: expected at most {_MOST_WHOLE:,} bytes in what goes with a sheet, "
                f"such as its styles, found more in {name!r}. Copy the values of the table alone "
                "into a new workbook, or save it as .csv."
            )
        return content


def _sheet_cells(path: Path) -> Iterator[list[str]]:
    try:
        with path.open("rb") as file:
            # What openpyxl.load_workbook does, with parts that are bounded. Values from other
            # workbooks are stored in the cells, too.
            reader = ExcelReader(file, read_only=True, data_only=True, keep_links=False)
            reader.archive = _Parts(file, path)
            # A chart is no table, and would be read whole with its pictures; it keeps its place.
            reader.read_chartsheet = lambda *_: reader.wb._sheets.append(Chartsheet())
            reader.read()
            sheet = reader.wb.worksheets[0]
            sheet.reset_dimensions()  # those that the file states need not be its own
            for row in sheet.iter_rows(values_only=True):
                yield [_cell_text(value) for value in row]
    except DataError:
        raise
    except Exception as error:  # the readers of zip, XML and sheets raise what they like
        raise DataError(
            f"{path}: expected an .xlsx spreadsheet, found an unreadable file ({error}). Save the "
            "table again as .xlsx or as .csv."
        ) from error


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _json_cells(path: Path) -> list[list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
        refuse_half_characters(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected JSON as UTF-8 text, found a broken file ({error}). Export it again."
        ) from error
    if isinstance(content, dict) and all(isinstance(text, str) for text in content.values()):
        return [["Image", "Description"], *([name, text] for name, text in content.items())]
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        titles = list(dict.fromkeys(title for row in content for title in row))
        if len(titles) * len(content) > _MOST_CELLS:
            raise DataError(
                f"{path}: expected at most {_MOST_CELLS:,} cells, found {len(content)} rows of "
                f"{len(titles)}. Give all objects the same keys."
            )
        cells = [[row.get(title) for title in titles] for row in content]
        return [titles, *([("" if c is None else str(c)) for c in row] for row in cells)]
    raise DataError(
        f'{path}: expected {{"NAME": "REPORT", ...}} or [{{"Image": "NAME", "Description": '
        '"REPORT"}, ...], found JSON of another shape. Bring it into one of these.'
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object's pairs; the parser alone would keep the last of two."""
    if len(names := dict(pairs)) < len(pairs):
        twice = {name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place])}
        raise ValueError(f"names that are there twice: {listing(sorted(twice))}")
    return names


def refuse_half_characters(content: object) -> None:
    """Refuses what JSON can hold and no file: half of a character, such as U+D800 on its own.

    Raises:
        ValueError: If a string cannot be encoded.
    """
    json.dumps(content, ensure_ascii=False).encode()


def refuse_large(path: Path) -> None:
    """Refuses a table that would fill the memory, by its size and what it says to unpack to.

    Raises:
        DataError: Says how large a table may be.
    """
    size, most = path.stat().st_size, MOST_BYTES
    # What is no spreadsheet is left to its reader to complain of.
    with suppress(Exception), zipfile.ZipFile(path) as parts:
        size, most = sum(part.file_size for part in parts.infolist()), 4 * MOST_BYTES
    if size > most:
        raise DataError(
            f"{path}: expected a table of at most {most >> 20} MiB, found {size >> 20} MiB. Leave "
            "out what is no report, or divide it."
        )


def _few(path: Path, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """The rows, as long as they are no more than any table of reports has."""
    cells = 0
    for row in rows:
        cells += len(row)
        if cells > _MOST_CELLS:
            raise DataError(
                f"{path}: expected at most {_MOST_CELLS:,} cells, found more. Delete what lies far "
                "below or far to the right of the table."
            )
        yield row


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads a table as text: nothing is taken for a number, a date or a missing value.

    Cells lose the spaces around them. The wholly empty rows and columns that spreadsheets leave
    behind a table are dropped.

    Args:
        path: A .csv file (UTF-8, with or without byte order mark), an .xlsx file, of which the
            first sheet is read, or a .json file: one object of reports by name, or a list of
            objects whose keys are the header.

    Returns:
        The header's cells, and the rows below it with one cell for each cell of the header.

    Raises:
        DataError: The file is missing, unreadable, not UTF-8, of another kind, has rows with more
            cells than its header, or far more cells than any report table.
    """
    readers: dict[str, Callable[[Path], Iterable[list[str]]]] = {
        ".csv": _csv_cells,
        ".xlsx": _sheet_cells,
        ".json": _json_cells,
    }
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path}: expected a .csv, .xlsx or .json table, found `{path.suffix}`. Convert it."
        )
    if not path.is_file():
        raise DataError(f"{path}: expected a table, found no such file. Correct the path.")
    refuse_large(path)
    once: dict[str, str] = {}  # equal cells share one string, however long the table
    rows = [
        [once.setdefault(cell, cell) for cell in map(str.strip, row)]
        for row in _few(path, readers[path.suffix.lower()](path))
    ]
    while rows and not any(rows[-1]):
        rows.pop()
    header = rows.pop(0) if rows else []
    while header and not header[-1]:
        header.pop()
    width = len(header)
    if long := [str(row) for row, cells in enumerate(rows, start=2) if any(cells[width:])]:
        raise DataError(
            f"{path}: expected {width} cells in each row, as in its header, found more in "
            f"row {listing(long)}. Put a text that holds commas between double quotes."
        )
    if len(rows) * width > _MOST_CELLS:
        raise DataError(
            f"{path}: expected at most {_MOST_CELLS:,} cells, found {len(rows)} rows of {width}. "
            "Delete what lies far below or far to the right of the table."
        )
    return header, [(cells + [""] * width)[:width] for cells in rows]


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    found = [place for place, title in enumerate(header) if title.lower() in names]
    if len(found) != 1:
        raise DataError(
            f"{path}: expected one column `{'` or `'.join(name.title() for name in names)}`, found "
            f"the columns {header}. Rename them in the table's first row."
        )
    return found[0]


def read_reports(path: Path) -> dict[str, Report]:
    """Reads a report table: a column `Image`, and a column `Description` or `Text`.

    Upper or lower case and spaces around titles, names and texts make no difference. A column
    `source` says where a report comes from; further columns are allowed and not read.

    Args:
        path: The .xlsx, .csv or .json file; see `read_cells`.

    Returns:
        Report by name, as the `Image` column spells it, in the table's order.

    Raises:
        DataError: The file cannot be read as a table, a column is missing or there twice, a cell
            is empty, or a name is there twice. All rows concerned are listed.
    """
    header, rows = read_cells(path)
    name_at, text_at = _column(path, header, _NAME_COLUMNS), _column(path, header, _TEXT_COLUMNS)
    stated = _SOURCE_COLUMN in map(str.lower, header)
    source_at = _column(path, header, (_SOURCE_COLUMN,)) if stated else None
    problems = Problems()
    places: dict[str, list[int]] = defaultdict(list)
    # Counted as a spreadsheet does: the header is row 1.
    for place, cells in enumerate(rows, start=2):
        for column in (name_at, text_at):
            if not cells[column]:
                problems.add("empty cells", f"row {place}, column {header[column]}")
        if cells[name_at]:
            places[cells[name_at]].append(place)
    for name, at in places.items():
        if len(at) > 1:
            problems.add("duplicate names", f"{name} (rows {', '.join(map(str, at))})")
    problems.raise_any(
        f"{path}: expected a name and a report in each row, each name once",
        "Fill the cells, delete the rows that are too many, and try again.",
    )
    return {
        cells[name_at]: Report(cells[text_at], "" if source_at is None else cells[source_at])
        for cells in rows
    }
