"""LViT's public layout as a samples table: `{Train,Val,Test}_Folder/{img,labelcol}` and reports."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lcpdn_pl.data.images import PICTURES
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.report_tables import Report, read_reports
from lcpdn_pl.errors import DataError

FOLDERS = {"train": "Train_Folder", "val": "Val_Folder", "test": "Test_Folder"}
_LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind; .DS_Store is hidden

_Content = TypeVar("_Content")


def stem(name: str) -> str:
    """`name` without an image's extension; other dots belong to the name."""
    path = Path(name)
    return path.stem if path.suffix.lower() in PICTURES else path.name


def owner(name: str, images: Container[str]) -> str | None:
    """The image that a mask or a report row of this file name belongs to."""
    own = stem(name)
    return next((image for image in (own, own.removeprefix("mask_")) if image in images), None)


def is_litter(name: str) -> bool:
    """Whether a file of this name is hidden, a lock, or left behind by a file manager."""
    return name.startswith((".", "~$")) or name.lower() in _LITTER


def report_tables(folder: Path) -> list[Path]:
    """The files of a split's folder that are taken for its report table; there should be one."""
    return [file for file in _visible(folder) if file.name.lower().endswith(("_text.xlsx", ".csv"))]


def _visible(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if not is_litter(file.name)]


def _pictures(folder: Path, problems: Problems) -> list[Path]:
    pictures = []
    for file in _visible(folder):
        if file.suffix.lower() in PICTURES:
            pictures.append(file)
        else:
            problems.add("files that are no PNG, JPEG, TIFF or BMP", str(file))
    return pictures


def _match(
    found: Mapping[str, _Content],
    images: Mapping[str, Path],
    kind: str,
    where: Path,
    problems: Problems,
) -> dict[str, _Content]:
    """Hands each of the `found` masks or reports, keyed by its own name, to its image's name."""
    owned: dict[str, _Content] = {}
    for name, content in found.items():
        image = owner(name, images)
        if image is None:
            problems.add(f"{kind}s without an image", f"{name} in {where}")
        elif image in owned:
            problems.add(f"{kind}s of an image that has one already", f"{name} in {where}")
        else:
            owned[image] = content
    missing = [str(path) for name, path in images.items() if name not in owned]
    problems.add(f"images without a {kind}", *missing)
    return owned


def _images(folder: Path, problems: Problems) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in _pictures(folder, problems):
        if path.stem in images:
            problems.add("images that share a name", f"{path} and {images[path.stem].name}")
        images[path.stem] = path
    if not images:
        problems.add("folders without an image", str(folder))
    return images


def _masks(folder: Path, images: Mapping[str, Path], problems: Problems) -> dict[str, str]:
    masks = {path.name: str(path) for path in _pictures(folder, problems)}
    return _match(masks, images, "mask", folder, problems)


def _reports(folder: Path, images: Mapping[str, Path], problems: Problems) -> dict[str, Report]:
    tables = report_tables(folder)
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        problems.add("folders without exactly one *_text.xlsx or *.csv", f"{folder} ({found})")
        return {}
    try:
        reports = read_reports(tables[0])
    except DataError as error:
        problems.add("report tables that cannot be used", str(error))
        return {}
    return _match(reports, images, "report", tables[0], problems)


def _split(folder: Path, split: str, problems: Problems) -> list[dict[str, str]]:
    needed = [folder / "img", folder / "labelcol"] if folder.is_dir() else [folder]
    if missing := [str(path) for path in needed if not path.is_dir()]:
        problems.add("missing folders", *missing)
        return []
    images = _images(folder / "img", problems)
    if not images:
        return []
    masks = _masks(folder / "labelcol", images, problems)
    reports = _reports(folder, images, problems)
    none = Report("", "")
    return [
        {
            "image": str(path),
            "mask": masks.get(name, ""),
            "text": reports.get(name, none).text,
            "split": split,
            "name": name,
            "source": reports.get(name, none).source,
        }
        for name, path in images.items()
    ]


def list_lvit(root: Path) -> tuple[pd.DataFrame, Problems]:
    """Lists what there is of LViT's layout, and everything that is wrong with it.

    Args:
        root: The folder that holds `Train_Folder`, `Val_Folder` and `Test_Folder`.

    Returns:
        Samples table as of `read_lvit`, in which `mask` or `text` is "" where there is none, and
        what is missing, superfluous or ambiguous.

    Raises:
        DataError: The root is missing.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder that holds {', '.join(FOLDERS.values())}, found no "
            "such folder. Set `root` to where the data is, or the environment variable "
            "LCPDN_DATA_ROOT to the folder above it; data/README.md says how to obtain the data."
        )
    problems = Problems()
    rows = [
        row for split, folder in FOLDERS.items() for row in _split(root / folder, split, problems)
    ]
    columns = ["image", "mask", "text", "split", "name", "source"]
    return pd.DataFrame(rows, columns=columns), problems


def read_lvit(root: Path) -> pd.DataFrame:
    """Reads LViT's layout: `{Train,Val,Test}_Folder/{img,labelcol}` and a report table in each.

    A mask belongs to the image with the same stem, or to the one whose stem follows `mask_`; a
    row of the report table likewise, whatever extension it writes. Hidden files, lock files and
    what file managers leave behind are no data.

    Args:
        root: The folder that holds `Train_Folder`, `Val_Folder` and `Test_Folder`.

    Returns:
        Samples table, splits in the order train, val, test, sorted by name inside each. `name` is
        the image's stem.

    Raises:
        DataError: The root is missing, or anything in it is missing, superfluous or ambiguous.
            Everything is listed, by kind.
    """
    samples, problems = list_lvit(root)
    problems.raise_any(
        f"{root}: expected one mask and one report for each image, in LViT's layout",
        "Complete the data, or move away what does not belong; data/README.md shows the layout.",
    )
    return samples
