"""Rule-based reports for data that has none, marked as what they are."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd

from lcpdn_pl.data.images import read_mask
from lcpdn_pl.data.lvit import FOLDERS, list_lvit, report_tables
from lcpdn_pl.data.manifest import read_rows
from lcpdn_pl.data.mask_reports import MASK_SOURCE, Wording, describe_mask
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.report_tables import read_cells
from lcpdn_pl.errors import DataError
from lcpdn_pl.files import write_whole

_TITLES = ("Image", "Description", "source")
_FILLABLE = ("images without a report", "folders without exactly one *_text.xlsx or *.csv")


def write_reports(
    source: Path, wording: Wording, foreground: Collection[int], force: bool = False
) -> pd.DataFrame:
    """Writes reports from masks where there are none; reports that are there stay as they are.

    In LViT's layout they are added to the `*_text.csv` of each split. For a manifest a new one is
    written beside it, `<name>_reports.csv`.

    Args:
        source: The tree's folder, or the manifest.
        wording: See `describe_mask`.
        foreground: Values of a mask file that are foreground; 0 is background.
        force: Write all reports anew. A table with other reports is kept as `<name>.bak`.

    Returns:
        Table with the columns file (that was written), split, written and kept (reports).

    Raises:
        DataError: The source is not as expected, a mask cannot be read, or nothing is to be
            written. All masks concerned are listed, and nothing is written then.
    """
    write = _write_tree if source.is_dir() else _write_manifest
    return pd.DataFrame(
        write(source, partial(_describe, wording, foreground), force),
        columns=["file", "split", "written", "kept"],
    )


_Describe = partial[dict[Path, str]]
_Rows = list[tuple[Path, str, int, int]]


def _describe(
    wording: Wording, foreground: Collection[int], masks: Iterable[Path]
) -> dict[Path, str]:
    """Reports by mask.

    Raises:
        DataError: Lists the masks that cannot be read.
    """

    def describe(mask: Path) -> str | DataError:
        try:
            return describe_mask(read_mask(mask, foreground), wording)
        except DataError as error:
            return error

    masks = list(masks)
    problems, texts = Problems(), {}
    with ThreadPoolExecutor() as pool:
        for mask, text in zip(masks, pool.map(describe, masks), strict=True):
            if isinstance(text, DataError):
                problems.add("masks that cannot be used", str(text))
            else:
                texts[mask] = text
    problems.raise_any(
        f"The masks: expected the values 0 and {', '.join(map(str, foreground))}",
        "Correct the files, or name their values with --foreground.",
    )
    return texts


def _nothing_to_write(source: Path) -> DataError:
    return DataError(
        f"{source}: expected images without a report, found that each has one. Give --force to "
        "write all of them anew."
    )


def _write_tree(root: Path, describe: _Describe, force: bool) -> _Rows:
    samples, problems = list_lvit(root)
    others = Problems()
    for kind, items in problems.kinds.items():
        if kind not in _FILLABLE:
            others.add(kind, *items)
    chosen = samples if force else samples[samples["text"] == ""]
    tables = {split: _table(root / FOLDERS[split], others) for split in chosen["split"].unique()}
    for table in tables.values():
        if not force and table.suffix.lower() == ".xlsx":
            others.add("spreadsheets that lack rows; only a .csv is added to", str(table))
    others.raise_any(
        f"{root}: expected LViT's layout, in which only reports may be missing",
        "Correct the files; data/README.md shows the layout. Save spreadsheets as .csv.",
    )
    if chosen.empty:
        raise _nothing_to_write(root)
    if force:
        _refuse_to_replace(root, [_aside(table) for table in tables.values() if _is_kept(table)])
    texts = describe(chosen["mask"].map(Path))
    done: _Rows = []
    for split, table in tables.items():
        rows = chosen[chosen["split"] == split]
        new = {
            Path(image).name: texts[Path(mask)]
            for image, mask in zip(rows["image"], rows["mask"], strict=True)
        }
        kept = (samples["split"] == split).sum() - len(rows)
        done.append((_write_table(table, new, force), split, len(rows), int(kept)))
    return done


def _table(folder: Path, problems: Problems) -> Path:
    """The split's table, which may not be there yet."""
    there = report_tables(folder) if folder.is_dir() else []
    if len(there) > 1:
        problems.add("folders with several report tables", str(folder))
    return there[0] if there else folder / f"{folder.name.removesuffix('Folder')}text.csv"


def _write_table(table: Path, texts: Mapping[str, str], force: bool) -> Path:
    header, rows = read_cells(table) if table.exists() else (list(_TITLES), [])
    titles = [title.lower() for title in header]
    if force and table.exists():
        if _is_kept(table):
            table.rename(_aside(table))
        header, titles, rows = list(_TITLES), [title.lower() for title in _TITLES], []
        table = table.with_suffix(".csv")
    if "source" not in titles:
        header, titles = [*header, "source"], [*titles, "source"]
        rows = [[*row, ""] for row in rows]
    text = "description" if "description" in titles else "text"
    for name, report in texts.items():
        cells = {"image": name, text: report, "source": MASK_SOURCE}
        rows.append([cells.get(title, "") for title in titles])
    _write_csv(table, [header, *rows])
    return table


def _is_kept(table: Path) -> bool:
    """Whether a table that is written anew is kept: it has other reports, or is a spreadsheet."""
    if not table.exists():
        return False
    header, rows = read_cells(table)
    titles = [title.lower() for title in header]
    at = titles.index("source") if "source" in titles else None
    own = at is not None and all(row[at] == MASK_SOURCE for row in rows)
    return not own or table.suffix.lower() != ".csv"


def _aside(table: Path) -> Path:
    return table.with_name(f"{table.name}.bak")


def _refuse_to_replace(root: Path, kept: Iterable[Path]) -> None:
    problems = Problems()
    problems.add("files that are there", *(str(path) for path in kept if path.exists()))
    problems.raise_any(
        f"{root}: expected no files of the names that tables with other reports are kept under",
        "Nothing was written. Move them away.",
    )


def _write_manifest(path: Path, describe: _Describe, force: bool) -> _Rows:
    rows = list(read_rows(path).items())
    out = path.with_name(f"{path.stem}_reports.csv")
    if out.exists() and not force:
        raise DataError(f"{out}: expected no such file, found one. Move it away or give --force.")
    chosen = [(place, row) for place, row in rows if force or not row.get("text")]
    if not chosen:
        raise _nothing_to_write(path)
    problems = Problems()
    for place, row in chosen:
        mask = path.parent / row.get("mask", "")
        if not os.path.isfile(mask):  # noqa: PTH113 - Path's raises at a long name
            problems.add("rows without a report, and without a mask to write it from", place)
    problems.raise_any(
        f"{path}: expected a mask in each row that lacks a text",
        "Write these texts by hand; mask paths are relative to the manifest's folder.",
    )
    texts = describe(path.parent / row["mask"] for _, row in chosen)
    for _, row in chosen:
        row |= {"text": texts[path.parent / row["mask"]], "source": MASK_SOURCE}
    titles = list(dict.fromkeys(title for _, row in rows for title in row))
    _write_csv(out, [titles, *([row.get(title, "") for title in titles] for _, row in rows)])
    splits = dict.fromkeys(row.get("split", "") for _, row in rows)
    counts = {split: [row for _, row in rows if row.get("split", "") == split] for split in splits}
    written = {
        split: sum(row.get("source") == MASK_SOURCE for row in counts[split]) for split in splits
    }
    return [(out, split, written[split], len(counts[split]) - written[split]) for split in splits]


def _write_csv(path: Path, rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue())
