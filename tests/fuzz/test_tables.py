"""Report tables and manifests, damaged."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from lcpdn_pl.data.manifest import SPLITS, read_manifest
from lcpdn_pl.data.report_tables import Report, read_reports
from tests.fuzz.mutations import (
    Content,
    cases,
    damaged,
    damaged_zip,
    odd_rows,
    odd_tree,
    outcome,
    recoded,
)

REPORTS = [
    ["Image", "Description", "source", "age"],
    ["a.png", "One round area, upper left lung.", "", "41"],
    ["b.png", 'Two areas, "dense".', "mask", ""],
    ["größe.png", "左肺下部に浸潤影。", "", "3.5"],
]
MANIFEST = [
    ["image", "mask", "text", "split", "name", "source"],
    ["img/a.png", "mask.png", "One area, left.", "train", "", ""],
    ["img/b.png", "mask.png", "Two areas, right.", "val", "case 7", "mask"],
    ["img/b.png", "", "None.", "predict", "b", ""],
]
REPORTS_BY_NAME = {row[0]: row[1] for row in REPORTS[1:]}
REPORT_OBJECTS = [dict(zip(REPORTS[0], row, strict=True)) for row in REPORTS[1:]]
MANIFEST_OBJECTS = [dict(zip(MANIFEST[0], row, strict=True)) for row in MANIFEST[1:]]
CSV_TOKENS = (b",", b'"', b'""', b"\r", b"\xef\xbb\xbf", b"Image", b"Description", b"../", b"\0")
JSON_TOKENS = (b"{", b"}", b"[", b'"', b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"[" * 5000)
XML_TOKENS = (
    *(b"<", b">", b"&", b"&amp;", b"&#0;", b"</c>", b'<c r="XFD1048576" t="s"><v>0</v></c>'),
    *(b"<v>99</v>", b"<v>-1</v>", b"<v>nan</v>", b't="s"', b't="n"', b't="d"', b't="e"', b't="b"'),
    *(b'r="A0"', b'r="1A"', b's="99"', b"<f>", b"<!DOCTYPE x>", b"<mergeCell ref='A1:A9'/>"),
)


def as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, escapechar="\\").writerows(rows)
    return Content(text.getvalue().encode(errors="surrogatepass"))


def as_xlsx(rows: Sequence[Sequence[str]]) -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append([ILLEGAL_CHARACTERS_RE.sub("", cell) for cell in row])
    book.save(file)
    return Content(file.getvalue())


def as_json(tree: Any) -> bytes:
    return Content(json.dumps(tree, default=str).encode())


def as_lines(tree: Any) -> bytes:
    return Content(b"\n".join(map(as_json, tree if isinstance(tree, list) else [tree])))


def odd_csv(rows: Sequence[Sequence[str]]) -> st.SearchStrategy[bytes]:
    content = as_csv(rows)
    cells = odd_rows(rows).map(as_csv)
    return st.one_of(damaged(content, CSV_TOKENS), cells, recoded(content.decode()))


def odd_json(tree: Any, write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(write(tree), JSON_TOKENS), odd_tree(tree).map(write))


SHEET = as_xlsx(REPORTS)


def check_reports(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    found = outcome(lambda: read_reports(file))
    for name, report in (found or {}).items():
        assert isinstance(report, Report)
        for cell in (name, *report):
            assert isinstance(cell, str)
            assert cell == cell.strip()
            cell.encode()
        assert name
        assert report.text


def check_manifest(file: Path, content: bytes) -> None:
    (file.parent / "img").mkdir(exist_ok=True)
    for image in ("img/a.png", "img/b.png", "mask.png"):
        (file.parent / image).touch()
    file.write_bytes(content)
    found = outcome(lambda: read_manifest(file))
    if found is None:
        return
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == MANIFEST[0]
    assert set(found["split"]) <= set(SPLITS)
    for row in found.to_dict("records"):
        assert Path(row["image"]).is_file()
        assert row["text"]
        for cell in row.values():
            cell.encode()


@cases(100)
@given(odd_csv(REPORTS))
def test_report_tables_of_text(folder: Path, content: bytes) -> None:
    check_reports(folder / "t.csv", content)


@cases(100)
@given(damaged_zip(SHEET, XML_TOKENS))
def test_spreadsheets(folder: Path, content: bytes) -> None:
    check_reports(folder / "t.xlsx", content)


@cases(50)
@given(st.one_of(odd_rows(REPORTS).map(as_xlsx), damaged(SHEET)))
def test_spreadsheets_of_odd_cells(folder: Path, content: bytes) -> None:
    check_reports(folder / "t.xlsx", content)


@cases(100)
@given(st.one_of(odd_json(REPORTS_BY_NAME, as_json), odd_json(REPORT_OBJECTS, as_json)))
def test_report_tables_of_json(folder: Path, content: bytes) -> None:
    check_reports(folder / "t.json", content)


@cases(100)
@given(odd_csv(MANIFEST))
def test_manifests(folder: Path, content: bytes) -> None:
    check_manifest(folder / "m.csv", content)


@cases(100)
@given(odd_json(MANIFEST_OBJECTS, as_lines))
def test_manifests_of_json_lines(folder: Path, content: bytes) -> None:
    check_manifest(folder / "m.jsonl", content)
