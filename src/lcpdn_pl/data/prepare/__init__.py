"""What the public sources hand out, brought into the layout that the data modules read."""

import io
import shutil
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from PIL import Image

from lcpdn_pl.data.images import read_image, read_mask, read_size
from lcpdn_pl.data.lvit import FOLDERS, is_litter, report_tables
from lcpdn_pl.data.monuseg import MoNuSeg
from lcpdn_pl.data.mosmed_plus import MosMedPlus
from lcpdn_pl.data.prepare.annotations import draw_outlines, read_outlines
from lcpdn_pl.data.prepare.assembling import (
    NO_REPORT,
    MissingReports,
    Splits,
    assemble,
    gather_reports,
    leave_out,
)
from lcpdn_pl.data.prepare.layouts import TABLES, Found, recognise
from lcpdn_pl.data.prepare.sources import File, find_files
from lcpdn_pl.data.prepare.writing import Content, Written, write_tree
from lcpdn_pl.data.problems import Problems, listing
from lcpdn_pl.data.progress import Track, untracked
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.public import PublicDataModule
from lcpdn_pl.data.qata_cov19 import QaTaCOV19
from lcpdn_pl.data.samples import find_problems
from lcpdn_pl.errors import DataError

__all__ = ["MODULES", "MissingReports", "Prepared", "PublicSet", "prepare"]

PublicSet = Literal["monuseg", "qata_cov19", "mosmed_plus"]

MODULES: Mapping[PublicSet, type[PublicDataModule]] = {
    "monuseg": MoNuSeg,
    "qata_cov19": QaTaCOV19,
    "mosmed_plus": MosMedPlus,
}
_UNREADABLE = "unreadable files"


class Prepared(NamedTuple):
    """What was prepared."""

    samples: pd.DataFrame
    """Samples table of the source, with a column `told`; see `assemble`."""
    written: Written
    notes: list[str]
    """What a user should know, a sentence each."""


def prepare(
    name: PublicSet,
    source: Path,
    out: Path,
    reports: Path | None = None,
    missing_reports: MissingReports = "refuse",
    track: Track = untracked,
) -> Prepared:
    """Brings a public data set into LViT's layout; images and masks are copied byte for byte.

    Until all is well, everything is kept in the hidden folder `.<out>.part` beside `out`, so that
    an attempt that broke off is continued by the next one.

    Args:
        name: The data set.
        source: Folder or archive as downloaded.
        out: Folder for the result.
        reports: A report table, or a folder or archive of them, instead of those in the source.
        missing_reports: What to do with images without a report.
        track: Shows the progress.

    Returns:
        What was prepared.

    Raises:
        DataError: Anything about the source is not as expected, all of which is listed, or `out`
            holds other files. `out` is untouched.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{out}: expected a folder outside of the source {source}, found one inside of it. "
            "Give another one with --out."
        )
    module, staging = MODULES[name], out.parent / f".{out.name}.part"
    problems = Problems()
    notes: list[str] = []
    files = _latest(find_files(source, staging / "unpacked"), notes)
    found = recognise(files, problems)
    if not found.images:
        raise DataError(
            f"{source}: expected images in folders such as img, Images, frames or Tissue Images, "
            f"found none among {len(files)} files. Give the folder or archive as it was "
            "downloaded; data/README.md says which forms are known."
        )
    tables = found.tables if reports is None else _tables(reports, staging / "unpacked")
    by_image, strays = gather_reports(tables, found, reports is not None, problems)
    samples = assemble(found, by_image, _splits(name), problems)
    chosen = leave_out(samples, missing_reports, problems)
    problems.extend(find_problems(_pictures_only(chosen), tuple(FOLDERS)))
    drawn = _decode(chosen, module.foreground, problems, track)
    _raise(problems, name, source, bool(by_image))
    notes += _notes(chosen, found, strays, len(samples) - len(chosen))
    contents = _contents(chosen, drawn)
    _refuse_others(contents, out)
    counts = ", ".join(f"{(chosen['split'] == split).sum()} {split}" for split in FOLDERS)
    header = f"lcpdn prepare {name}: {counts}"
    written = write_tree(contents, out, staging / "tree", header, track)
    shutil.rmtree(staging, ignore_errors=True)
    return Prepared(chosen, written, notes)


def _latest(files: list[File], notes: list[str]) -> list[File]:
    """QaTa-COV19's archive holds its first version, too: images of the same names."""
    old = [
        file for file in files if any(part.lower().endswith("-v1") for part in file.inside.parts)
    ]
    if not old or len(old) == len(files):
        return files
    notes.append(f"{len(old)} files of version 1 left out.")
    return [file for file in files if file not in old]


def _tables(reports: Path, scratch: Path) -> list[File]:
    if reports.is_file() and reports.suffix.lower() in TABLES:
        return [File(reports, Path(reports.name))]
    files = find_files(reports, scratch)
    tables = [file for file in files if file.path.suffix.lower() in TABLES]
    if not tables:
        raise DataError(
            f"{reports}: expected report tables ({', '.join(TABLES)}), found none. Give the table, "
            "or the folder or archive that holds them."
        )
    return tables


def _splits(name: PublicSet) -> Splits:
    """What the package's lists tell; only those of MoNuSeg name all of val and test."""
    if name == "mosmed_plus":  # its two lists differ
        return Splits({}, None)
    protocols = pd.concat(map(read_protocol, MODULES[name].protocols.values()))
    if name == "qata_cov19":
        protocols = protocols[protocols["split"] == "val"]
    listed = dict(zip(protocols["name"], protocols["split"], strict=True))
    return Splits(listed, "train" if name == "monuseg" else None)


def _is_outline(mask: str) -> bool:
    return mask.lower().endswith(".xml")


def _pictures_only(samples: pd.DataFrame) -> pd.DataFrame:
    return samples.assign(mask=["" if _is_outline(mask) else mask for mask in samples["mask"]])


def _decode(
    samples: pd.DataFrame, foreground: Collection[int], problems: Problems, track: Track
) -> dict[str, bytes]:
    """Decodes all files, so that none is found to be torn later; returns the drawn masks as PNG."""
    with ThreadPoolExecutor() as pool:
        checked = pool.map(partial(_check, foreground), samples["image"], samples["mask"])
        results = track(checked, len(samples), "Reading images and masks")
        drawn = {}
        for name, (mask, troubles) in zip(samples["name"], results, strict=True):
            known = problems.kinds.get(_UNREADABLE, ())
            problems.add(_UNREADABLE, *(trouble for trouble in troubles if trouble not in known))
            if mask:
                drawn[name] = mask
    return drawn


def _check(foreground: Collection[int], image: str, mask: str) -> tuple[bytes, list[str]]:
    troubles: list[str] = []
    png = io.BytesIO()
    try:
        read_image(Path(image))
    except DataError as error:
        troubles.append(str(error))
    try:
        if _is_outline(mask):
            pixels = draw_outlines(read_outlines(Path(mask)), read_size(Path(image)))
            Image.fromarray(pixels).save(png, "PNG")
        elif mask:
            read_mask(Path(mask), foreground)
    except DataError as error:
        troubles += [str(error)] if str(error) not in troubles else []
    return png.getvalue(), troubles


def _raise(problems: Problems, name: PublicSet, source: Path, any_report: bool) -> None:
    remedies = ["Complete the source or correct its files, and try again."]
    if NO_REPORT in problems.kinds:
        lacking = "Some reports are missing" if any_report else "There is no report table"
        remedies.append(
            f"{lacking}: give LViT's tables with --reports. Or leave these images out "
            "(--missing_reports leave_out), or keep them (--missing_reports keep) and let "
            "`lcpdn report-from-mask` write reports from the masks."
        )
    if {
        "empty splits",
        "images whose split no folder, table or list tells",
    } & problems.kinds.keys():
        remedies.append(
            "Tables named after train, val and test, given with --reports, tell the splits."
        )
    problems.raise_any(
        f"{source}: expected the images of {name}, one mask and one report for each, in three "
        "splits",
        " ".join(remedies),
    )


def _notes(
    samples: pd.DataFrame, found: Found, strays: Collection[str], left_out: int
) -> Iterable[str]:
    listed = samples["told"] == "list"
    if count := (listed & (samples["split"] == "val")).sum():
        yield f"{count} validation images are those of this package's list; no table names any."
        count = (~listed & (samples["split"] == "train")).sum()
        yield f"{count} of the training images are in none of this package's lists."
    if left_out:
        yield f"{left_out} images without a report left out."
    if count := (samples["text"] == "").sum():
        yield f"{count} images have no report; `lcpdn report-from-mask` can write them."
    if count := len({mask for mask in samples["mask"] if _is_outline(mask)}):
        yield f"{count} masks drawn from outlines."
    if strays:
        yield f"{len(strays)} report rows of images that are not there left out: {listing(strays)}."
    if found.twins:
        yield f"{len(found.twins)} files that are there twice taken once."
    if found.others:
        names = sorted({str(file.inside) for file in found.others})
        yield f"{len(names)} files of another kind left out: {listing(names)}."


def _contents(samples: pd.DataFrame, drawn: Mapping[str, bytes]) -> dict[str, Content]:
    """The tree's files; report tables come last, so that a tree without them is no whole one."""
    files: dict[str, Content] = {}
    tables: dict[str, Content] = {}
    for split, rows in samples.groupby("split", sort=False):
        folder = FOLDERS[str(split)]
        for name, image, mask in zip(rows["name"], rows["image"], rows["mask"], strict=True):
            files[f"{folder}/img/{Path(image).name}"] = Path(image)
            if name in drawn:
                files[f"{folder}/labelcol/{name}.png"] = drawn[name]
            else:
                files[f"{folder}/labelcol/{Path(mask).name}"] = Path(mask)
        rows = rows[rows["text"] != ""]
        if len(rows):
            table = pd.DataFrame(
                {
                    "Image": [Path(image).name for image in rows["image"]],
                    "Description": rows["text"],
                }
            )
            if (rows["source"] != "").any():
                table["source"] = rows["source"]
            text = table.to_csv(index=False, lineterminator="\n")
            tables[f"{folder}/{folder.removesuffix('Folder')}text.csv"] = text.encode()
    return files | tables


def _refuse_others(contents: Collection[str], out: Path) -> None:
    """Refuses a folder that holds what would be taken for data, but is none of this source."""
    there: list[Path] = []
    for folder in FOLDERS.values():
        for part in ("img", "labelcol"):
            if (out / folder / part).is_dir():
                there += [f for f in (out / folder / part).iterdir() if not is_litter(f.name)]
        table = f"{folder}/{folder.removesuffix('Folder')}text.csv"
        if table in contents and (out / folder).is_dir():
            there += report_tables(out / folder)
    problems = Problems()
    others = [str(f) for f in there if f.relative_to(out).as_posix() not in contents]
    problems.add("files that are none of this source", *sorted(others))
    problems.raise_any(
        f"{out}: expected a new folder, or one that was prepared from the same source",
        "Nothing was changed. Give another folder with --out, or move these files away.",
    )
