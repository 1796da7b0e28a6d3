import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile, ZipInfo

import openpyxl
import pandas as pd
import pytest
from openpyxl.chart import BarChart, Reference

from lcpdn_pl.data import report_tables
from lcpdn_pl.data.report_tables import read_reports
from lcpdn_pl.errors import DataError

CONTENT_TYPES = b"http://schemas.openxmlformats.org/package/2006/content-types"
SPREADSHEET = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHARED_STRINGS = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
ROWS = {"a.png": "One area, left.", "b.png": "None, NA"}


def table(path: Path, rows: list[list[object]]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".xlsx":
        frame.to_excel(path, header=False, index=False)
    else:
        frame.to_csv(path, header=False, index=False)
    return path


def texts(path: Path) -> dict[str, str]:
    return {name: report.text for name, report in read_reports(path).items()}


def good(header: list[str]) -> list[list[object]]:
    rows: list[list[object]] = [[name, text] for name, text in ROWS.items()]
    return [[*header], *rows]


def read_parts(path: Path) -> dict[str, bytes]:
    with ZipFile(path) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def write_parts(path: Path, parts: dict[str, bytes], packing: int = ZIP_DEFLATED) -> None:
    with ZipFile(path, "w", packing) as whole:
        for name, content in parts.items():
            whole.writestr(name, content)


@pytest.fixture(params=["t.csv", "t.xlsx"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


@pytest.mark.parametrize(
    "header", [["Image", "Description"], ["image", "text"], [" IMAGE ", "Text "]]
)
def test_titles(path: Path, header: list[str]) -> None:
    assert texts(table(path, good(header))) == ROWS


def test_columns_in_any_order_beside_others(path: Path) -> None:
    rows: list[list[object]] = [["", "Text", "Age", "Image"], [0, " some text ", 40, " a.png\t"]]
    assert texts(table(path, rows)) == {"a.png": "some text"}


def test_texts_are_not_taken_for_numbers_or_gaps(path: Path) -> None:
    rows: list[list[object]] = [["Image", "Text"], ["001", "NA"], ["2", "null"], ["3", "nan"]]
    assert texts(table(path, rows)) == {"001": "NA", "2": "null", "3": "nan"}


def test_trailing_empty_rows_and_columns_are_dropped(path: Path) -> None:
    empty: list[list[object]] = [["", " "], ["", ""]]
    rows = [[*row, "", " "] for row in good(["Image", "Text"]) + empty]
    assert texts(table(path, rows)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, newline: str) -> None:
    path = tmp_path / "t.csv"
    text = newline.join(["Image,Description", 'é.png,"two, of them"', "b.png,≤ 3 mm", "", ""])
    path.write_bytes(text.encode(encoding))
    assert texts(path) == {"é.png": "two, of them", "b.png": "≤ 3 mm"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("Image,Text\na.png,opacité\n".encode(encoding))
    with pytest.raises(DataError, match=r"t\.csv: expected UTF-8 .*another encoding.* Save"):
        read_reports(path)


def test_wrong_titles_list_those_found(path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one column `Image`, found .*'File', 'Text'"):
        read_reports(table(path, good(["File", "Text"])))
    with pytest.raises(DataError, match=r"`Description` or `Text`, found .*'Report'.* Rename"):
        read_reports(table(path, good(["Image", "Report"])))


def test_two_text_columns(path: Path) -> None:
    rows: list[list[object]] = [["Image", "Text", "Description"], ["a", "b", "c"]]
    with pytest.raises(DataError, match="expected one column `Description` or `Text`"):
        read_reports(table(path, rows))


def test_empty_cells_and_duplicates_are_all_listed(path: Path) -> None:
    rows: list[list[object]] = [
        ["Image", "Text"],
        ["a", "x"],
        ["", "y"],
        ["b", " "],
        ["", ""],
        [" a", "x"],
        ["c", "z"],
    ]
    with pytest.raises(DataError) as caught:
        read_reports(table(path, rows))
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a name and a report in each row")
    assert "row 3, column Image, row 4, column Text, row 5, column Image, row 5" in message
    assert "1 duplicate names: a (rows 2, 6)" in message
    assert "Fill the cells" in message


def test_unquoted_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Image,Text\na,one\nb,two, three\nc,four, five\n")
    with pytest.raises(DataError, match=r"t\.csv: expected 2 cells .* row 3, 4\. .*double quotes"):
        read_reports(path)


def test_unclosed_quote(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('Image,Text\na,"one\n')
    with pytest.raises(DataError, match=r"t\.csv: .* found a broken line .* double quotes"):
        read_reports(path)


@pytest.mark.parametrize("content", [b"", b"Image,Text\na,b\n"])
def test_no_spreadsheet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.xlsx: expected an \.xlsx .*unreadable.* Save"):
        read_reports(path)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("xl/worksheets/sheet1.xml", b"<worksheet><sheetData>"),
        ("[Content_Types].xml", b""),
        ("[Content_Types].xml", b"<Types xmlns='%b'><Default Type='a'/></Types>" % CONTENT_TYPES),
    ],
)
def test_spreadsheets_with_a_broken_part(tmp_path: Path, part: str, content: bytes) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    write_parts(path, read_parts(path) | {part: content})
    with pytest.raises(DataError, match=r"t\.xlsx: expected an \.xlsx .*unreadable.* Save"):
        read_reports(path)


MOST = report_tables._MOST_WHOLE
SPACES = b" " * (MOST + 1)


def workbook_elsewhere(parts: dict[str, bytes], folder: str) -> dict[str, bytes]:
    """The list of sheets in another folder of the file."""
    types = parts["[Content_Types].xml"].replace(b"/xl/workbook.xml", f"/{folder}/w.xml".encode())
    relations = parts["xl/_rels/workbook.xml.rels"]
    moved = {f"{folder}/w.xml": parts["xl/workbook.xml"], f"{folder}/_rels/w.xml.rels": relations}
    return parts | moved | {"[Content_Types].xml": types}


@pytest.mark.parametrize(
    "part",
    [
        "[Content_Types].xml",
        "docProps/core.xml",
        "docProps/custom.xml",
        "xl/_rels/workbook.xml.rels",
        "xl/styles.xml",
        "xl/theme/theme1.xml",
        "xl/workbook.xml",
        "xl/worksheets/_rels/sheet1.xml.rels",
        "xl/worksheets/w.xml",
    ],
)
def test_parts_that_are_read_whole_are_small(tmp_path: Path, part: str) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    parts = read_parts(path)
    if part == "xl/worksheets/w.xml":  # among those that may be large
        parts = workbook_elsewhere(parts, "xl/worksheets")
        assert "xl/worksheets/w.xml" in parts
        write_parts(path, parts)
        assert texts(path) == ROWS
    write_parts(path, parts | {part: parts.get(part, b"") + SPACES})
    with pytest.raises(DataError) as caught:
        read_reports(path)
    assert str(caught.value) == (
        f"{path}: expected at most 2,097,152 bytes in what goes with a sheet, such as its styles, "
        f"found more in '{part}'. Copy the values of the table alone into a new workbook, or save "
        "it as .csv."
    )


def test_a_part_that_lies_about_its_size(tmp_path: Path) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    parts = read_parts(path)
    styles = parts.pop("xl/styles.xml")
    write_parts(path, parts)
    with ZipFile(path, "a", ZIP_DEFLATED) as whole:
        whole.writestr(stated := ZipInfo("xl/styles.xml"), styles + SPACES, ZIP_DEFLATED)
        stated.file_size = len(styles)
    asked: list[int] = []

    class Watched(report_tables._Parts):
        def open(self, *names: Any, **options: Any) -> Any:
            part = super().open(*names, **options)
            read = part.read

            def watched(count: int | None = -1) -> bytes:
                asked.append(-1 if count is None else count)
                return read(count)

            patched.setattr(part, "read", watched)
            return part

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report_tables, "_Parts", Watched)
        with pytest.raises(DataError, match=r"t\.xlsx: expected an \.xlsx .*\(Bad CRC-32"):
            read_reports(path)
    assert MOST + 1 in asked
    assert -1 not in asked  # which would inflate all of it


@pytest.mark.parametrize("part", ["xl/sharedStrings.xml", "xl/worksheets/sheet1.xml"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_parts_that_are_read_by_the_piece_have_few_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, encoding: str
) -> None:
    monkeypatch.setattr(report_tables, "_MOST_ELEMENTS", 1000)
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    parts = read_parts(path) | {"xl/sharedStrings.xml": b"<sst xmlns='%b'></sst>" % SPREADSHEET}
    kind = b"<Override PartName='/xl/sharedStrings.xml' ContentType='%b'/></Types>" % SHARED_STRINGS
    types = "[Content_Types].xml"
    write_parts(path, parts | {types: parts[types].replace(b"</Types>", kind)})
    assert texts(path) == ROWS
    parts = read_parts(path)
    head, tail = re.sub(r"<\?.*?\?>", "", parts[part].decode()).rsplit("</", 1)
    content = f"<?xml version='1.0' encoding='{encoding}'?>{head}{'<x/>' * 1000}</{tail}"
    write_parts(path, parts | {part: content.encode(encoding)})
    with pytest.raises(DataError, match=r"t\.xlsx: expected at most 1,000 cells, texts .* \.csv\."):
        read_reports(path)


@pytest.mark.parametrize("part", ["xl/sharedStrings.xml", "xl/worksheets/sheet1.xml", "a.png"])
def test_rows_texts_and_pictures_may_be_large(tmp_path: Path, part: str) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    parts = read_parts(path)
    write_parts(path, parts | {part: parts.get(part, b"") + SPACES})
    assert texts(path) == ROWS


def test_parts_of_the_largest_size_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    parts = read_parts(path)
    styles = parts["xl/styles.xml"]
    parts["xl/styles.xml"] = styles + b" " * (MOST - len(styles))
    write_parts(path, parts)
    assert texts(path) == ROWS


@pytest.mark.parametrize("packing", [ZIP_BZIP2, ZIP_LZMA])
def test_other_packings(tmp_path: Path, packing: int) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    write_parts(path, read_parts(path), packing)
    with pytest.raises(DataError, match=r"t\.xlsx: expected .*deflated.*packed otherwise\. Save"):
        read_reports(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("before", [True, False])
def test_charts_are_no_tables(tmp_path: Path, before: bool) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    book = openpyxl.load_workbook(path)
    sheet = book.worksheets[0]
    sheet.print_area = "A1:B3"
    chart = BarChart()
    chart.add_data(Reference(sheet, range_string=f"{sheet.title}!A1:A3"))
    book.create_chartsheet("C", 0 if before else None).add_chart(chart)
    book.save(path)
    assert texts(path) == ROWS
    parts = read_parts(path)
    write_parts(path, parts | {"xl/chartsheets/sheet1.xml": SPACES})
    assert texts(path) == ROWS


def test_a_stray_cell_far_off(tmp_path: Path) -> None:
    path = table(tmp_path / "t.xlsx", good(["Image", "Text"]))
    book = openpyxl.load_workbook(path)
    book.active["ZZ100000"] = "stray"
    book.save(path)
    with pytest.raises(DataError, match=r"expected 2 cells in each row, .* more in row 100000\."):
        read_reports(path)


def test_half_of_a_character(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"a.png": "One \\ud800 area."}')
    with pytest.raises(DataError, match=r"t\.json: expected JSON .* surrogates not allowed"):
        read_reports(path)


def test_empty_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.touch()
    with pytest.raises(DataError, match=r"t\.csv: expected one column `Image`, found .* \[\]"):
        read_reports(path)


def test_missing_table(path: Path) -> None:
    with pytest.raises(DataError, match="expected a table, found no such file"):
        read_reports(path)


def test_other_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.xls: expected a .* or \.json table, found `\.xls`"):
        read_reports(tmp_path / "t.xls")
