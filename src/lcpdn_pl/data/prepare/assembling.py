"""From what a download holds to a samples table: each image's mask, report and split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from lcpdn_pl.data.lvit import owner
from lcpdn_pl.data.prepare.layouts import Found, split_of
from lcpdn_pl.data.prepare.sources import File
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.report_tables import Report, read_reports
from lcpdn_pl.data.samples import COLUMNS, SPLITS
from lcpdn_pl.errors import DataError

MissingReports = Literal["refuse", "keep", "leave_out"]

NO_REPORT = "images without a report"


class Stated(NamedTuple):
    """A report, and the split that its table is of, by the table's name or folder."""

    report: Report
    split: str | None


class Splits(NamedTuple):
    """What is known of a data set's splits, for images that no folder and no table tells."""

    listed: Mapping[str, str]
    """Splits by the image's name."""
    unlisted: str | None
    """The split of the others; None if it cannot be known."""


def gather_reports(
    tables: Iterable[File], found: Found, demanded: bool, problems: Problems
) -> tuple[dict[str, list[Stated]], list[str]]:
    """Reads report tables and hands their rows to the images.

    Args:
        tables: The tables. Spreadsheets and lists of other things are among `found.others`
            afterwards.
        found: The images.
        demanded: Whether each of the tables has to be one of reports; otherwise only those named
            `*_text` have to.
        problems: Where tables that cannot be used are noted.

    Returns:
        Reports by image, and the rows that name no image.
    """
    reports: dict[str, list[Stated]] = {}
    strays = []
    for table in tables:
        try:
            rows = read_reports(table.path)
        except DataError as error:
            if demanded or table.path.stem.lower().endswith("_text"):
                problems.add("report tables that cannot be used", str(error))
            else:
                found.others.append(table)
            continue
        for name, report in rows.items():
            image = owner(name, found.images)
            if image is None:
                strays.append(f"{name} in {table.inside}")
                continue
            stated = Stated(report, split_of(table.inside))
            known = reports.setdefault(image, [])
            if stated not in known:
                known.append(stated)
    for name, known in reports.items():
        if len(known) > 1:
            texts = " and ".join(f"{one.report.text!r} ({one.split})" for one in known)
            problems.add("images with several reports, or of several splits", f"{name}: {texts}")
    return reports, strays


def assemble(
    found: Found, reports: Mapping[str, list[Stated]], splits: Splits, problems: Problems
) -> pd.DataFrame:
    """Makes the samples table of a download.

    A table that is of one split tells its images' split, a folder does so for the others. Where no
    table and no folder is of validation images, lists pick them from those for training.

    Args:
        found: Images and masks.
        reports: Reports as of `gather_reports`.
        splits: What is known of other images.
        problems: Where images without a split, or with two, are noted.

    Returns:
        Samples table with a further column `told`: `table`, `folder`, `list` or `default`. The mask
        may be an annotation (.xml), and `text` is "" where there is no report.
    """
    folders = {name: split_of(image.inside.parent) for name, image in found.images.items()}
    if "val" in {*folders.values(), *(one.split for known in reports.values() for one in known)}:
        splits = splits._replace(listed={})
    rows = []
    for name, image in sorted(found.images.items()):
        stated = reports.get(name, [Stated(Report("", ""), None)])[0]
        folder = folders[name]
        split, told = _split(name, folder, stated.split, splits)
        if split is None:
            problems.add("images whose split no folder, table or list tells", str(image.inside))
        elif folder not in (None, split) and (folder, split) != ("train", "val"):
            problems.add(
                "images in the folder of another split than their table or list says",
                f"{image.inside} ({split})",
            )
        rows.append(
            {
                "image": str(image.path),
                "mask": str(found.masks[name].path) if name in found.masks else "",
                "text": stated.report.text,
                "split": split or "",
                "name": name,
                "source": stated.report.source,
                "told": told,
            }
        )
    samples = pd.DataFrame(rows, columns=[*COLUMNS, "told"])
    order = samples["split"].map({split: place for place, split in enumerate(SPLITS)})
    return samples.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _split(
    name: str, folder: str | None, table: str | None, splits: Splits
) -> tuple[str | None, str]:
    """The split, and what told it."""
    if table:
        return table, "table"
    if folder in ("val", "test"):
        return folder, "folder"
    if name in splits.listed:
        return splits.listed[name], "list"
    return (folder, "folder") if folder else (splits.unlisted, "default")


def leave_out(samples: pd.DataFrame, missing: MissingReports, problems: Problems) -> pd.DataFrame:
    """Does with images that have no report what the user wants.

    Args:
        samples: Samples table.
        missing: `refuse` notes them, `keep` keeps them without one, `leave_out` drops them.
        problems: Where they are noted.

    Returns:
        The samples that are to be written.
    """
    without = samples["text"] == ""
    if missing == "refuse":
        problems.add(NO_REPORT, *samples.loc[without, "image"].map(lambda path: Path(path).name))
    return samples[~without] if missing == "leave_out" else samples
