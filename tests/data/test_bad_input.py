"""What users bring: each case works as they would expect, or ends in one error that says why.

Every case changes one thing in a tree of 4 / 2 / 3 images, which is then read to the last pixel.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.data import MoNuSeg
from lcpdn_pl.errors import DataError
from tests.conftest import TreeMaker

Change = Callable[[Path], object]

FOLDER = Path("Train_Folder")
IMAGE, MASK = FOLDER / "img/train_0.png", FOLDER / "labelcol/train_0.png"
TABLE, SHEET = FOLDER / "Train_text.csv", FOLDER / "Train_text.xlsx"


def image(save: Callable[[Image.Image, Path], None]) -> Change:
    """Saves the first image in another way."""
    return lambda root: save(Image.open(root / IMAGE).copy(), root / IMAGE)


def mask(save: Callable[[Image.Image, Path], None]) -> Change:
    """Saves the first mask in another way."""
    return lambda root: save(Image.open(root / MASK).copy(), root / MASK)


def content(path: Path, change: Callable[[bytes], bytes]) -> Change:
    """Changes the bytes of a file."""
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


def renamed(old: Path, new: Path) -> Change:
    return lambda root: (root / old).rename(root / new)


def name_of_all(name: str) -> Change:
    """Gives the first image, its mask and its row another name."""

    def change(root: Path) -> None:
        (root / IMAGE).rename(root / IMAGE.with_name(name))
        (root / MASK).rename(root / MASK.with_name(name))
        content(TABLE, lambda text: text.replace(b"train_0.png", name.encode()))(root)

    return change


def report(text: str) -> Change:
    def change(root: Path) -> None:
        table = pd.read_csv(root / TABLE)
        table.loc[0, "Description"] = text
        table.to_csv(root / TABLE, index=False)

    return change


def sheet(change: Callable[[openpyxl.worksheet.worksheet.Worksheet], None]) -> Change:
    """Puts a spreadsheet in the table's place, and changes it."""

    def put(root: Path) -> None:
        pd.read_csv(root / TABLE).to_excel(root / SHEET, index=False)
        (root / TABLE).unlink()
        book = openpyxl.load_workbook(root / SHEET)
        change(book.active)
        book.save(root / SHEET)

    return put


def sixteen_bit(picture: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)


def turned(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture.save(path, exif=exif)


def paged(picture: Image.Image, path: Path) -> None:
    path.unlink()
    picture.save(path.with_suffix(".tif"), save_all=True, append_images=[picture])


def jpeg(picture: Image.Image, path: Path) -> None:
    path.unlink()
    picture.save(path.with_suffix(".jpg"), quality=50)


def loop(root: Path) -> None:
    (root / FOLDER / "img" / "again").symlink_to(root / FOLDER / "img", target_is_directory=True)


def clear(cell: str) -> Change:
    return sheet(lambda page: page.__setitem__(cell, None))


WORKS: dict[str, Change] = {
    "nothing changed": lambda _root: None,
    "spreadsheet": sheet(lambda _page: None),
    "stray spaces": content(TABLE, lambda text: text.replace(b"train_1.png,", b" train_1.png , ")),
    "CRLF": content(TABLE, lambda text: text.replace(b"\n", b"\r\n")),
    "byte order mark": content(TABLE, lambda text: b"\xef\xbb\xbf" + text),
    "upper-case extension": renamed(IMAGE, IMAGE.with_suffix(".PNG")),
    "RGBA image": image(lambda picture, path: picture.convert("RGBA").save(path)),
    "palette image": image(lambda picture, path: picture.convert("P").save(path)),
    "16-bit image": image(sixteen_bit),
    "1-bit image": image(lambda picture, path: picture.convert("1").save(path)),
    "1-bit mask": mask(lambda picture, path: picture.convert("1").save(path)),
    "palette mask": mask(lambda picture, path: picture.convert("P").save(path)),
    "mask as RGB": mask(lambda picture, path: picture.convert("RGB").save(path)),
    "mask as opaque RGBA": mask(lambda picture, path: picture.convert("RGBA").save(path)),
    "image turned by EXIF": image(turned),
    "name with spaces": name_of_all("case 0 of 4.png"),
    "name with other letters": name_of_all("Fall_Größe_肺.png"),
    "30,000 characters of report": report("Round nuclei, left lung. " * 1200),
    "report in another script": report("左肺下部に浸潤影。"),
}

REFUSED: dict[str, tuple[Change, str]] = {
    "empty cell": (clear("B2"), r"Train_text.xlsx.*1 empty cells: row 2, column Description"),
    "merged cells": (
        sheet(lambda page: page.merge_cells("B2:B3")),
        r"Train_text.xlsx.*1 empty cells: row 3, column Description",
    ),
    "wrong column names": (
        content(TABLE, lambda text: text.replace(b"Image,Description", b"File,Caption")),
        r"Train_text.csv.*found the columns \['File', 'Caption'\]",
    ),
    "not UTF-8": (
        content(TABLE, lambda text: text.replace(b"round", "ründ".encode("latin-1"))),
        r"Train_text.csv.*expected UTF-8.*Save the table as `CSV UTF-8`",
    ),
    "row missing": (
        content(TABLE, lambda text: text[: text.rindex(b"train_3")]),
        r"1 images without a report: .*train_3",
    ),
    "mask missing": (lambda root: (root / MASK).unlink(), r"1 images without a mask: .*train_0"),
    "TIFF with several pages": (image(paged), r"train_0.tif: expected one picture, found 2 pages"),
    "mask as JPEG": (mask(jpeg), r"train_0.jpg: expected the mask values 0, 255, found"),
    "colour in a mask": (
        lambda root: Image.new("RGB", (40, 40), (255, 0, 0)).save(root / MASK),
        r"train_0.png: expected a mask of one channel",
    ),
    "zero bytes": (content(IMAGE, lambda _: b""), r"train_0.png: .*found an empty file"),
    "truncated image": (
        content(IMAGE, lambda data: data[:-600]),
        r"train_0.png: .*unreadable or truncated",
    ),
    "text in an image's place": (
        content(IMAGE, lambda _: b"see attachment"),
        r"train_0.png: .*unreadable or truncated file of 14 bytes",
    ),
    "mask of another size": (
        lambda root: Image.new("L", (20, 40)).save(root / MASK),
        r"1 images and masks of different size.*train_0.png is 40x40 and .*is 40x20",
    ),
    "symlink loop": (loop, r"1 files that are no PNG, JPEG, TIFF or BMP: .*img/again"),
    "dead link": (
        lambda root: (root / FOLDER / "img/train_9.png").symlink_to(root / "nowhere.png"),
        r"train_9",
    ),
}


def read_all(root: Path) -> list[str]:
    data = MoNuSeg(str(root), "full", image_size=16)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch["mask"].unique().tolist() == [0, 1]
    names: list[str] = data.samples["name"].tolist()
    return names


@pytest.mark.parametrize("case", WORKS)
def test_works(case: str, make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    WORKS[case](root)
    assert len(read_all(root)) == 9


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_with_one_error(case: str, make_tree: TreeMaker, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    root = make_tree(tmp_path / "tree")
    change(root)
    with pytest.raises(DataError) as error:
        read_all(root)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
