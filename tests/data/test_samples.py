import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.samples import COLUMNS, check_samples, read_lvit, read_manifest, select
from lcpdn_pl.errors import DataError

SPLITS = ("train", "val", "test")
FOLDERS = ("Train_Folder", "Val_Folder", "Test_Folder")


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path)
    return path


def reports(path: Path, texts: dict[str, str]) -> None:
    frame = pd.DataFrame(texts.items(), columns=["Image", "Description"])
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False)


def lvit(
    root: Path, image: str = "{}.png", mask: str = "{}.png", row: str = "{}.png", kind: str = "csv"
) -> Path:
    """Writes the layout with two images a split: a0, b0, a1, b1, a2, b2."""
    for number, folder in enumerate(FOLDERS):
        stems = [f"a{number}", f"b{number}"]
        for place, stem in enumerate(stems):
            picture(root / folder / "img" / image.format(stem), seed=2 * number + place)
            picture(root / folder / "labelcol" / mask.format(stem))
        table = root / folder / f"{folder.removesuffix('_Folder')}_text.{kind}"
        reports(table, {row.format(stem): f"report {stem}" for stem in stems})
    return root


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


# LViT's layout


@pytest.mark.parametrize(
    ("image", "mask", "row"),
    [
        ("{}.png", "{}.png", "{}.png"),
        ("{}.tif", "{}.png", "{}.png"),
        ("{}.PNG", "mask_{}.png", "mask_{}.png"),
        ("{}.jpg", "mask_{}.PNG", "{}.JPG"),
        ("{}.png", "{}.bmp", "mask_{}.tiff"),
        ("{}.1.png", "{}.1.png", "{}.1"),
        ("mask_{}.png", "mask_{}.png", "mask_{}.png"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_lvit_names(tmp_path: Path, image: str, mask: str, row: str, kind: str) -> None:
    samples = read_lvit(lvit(tmp_path, image, mask, row, kind))
    assert tuple(samples.columns) == COLUMNS
    stems = ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert samples["name"].tolist() == [Path(image.format(stem)).stem for stem in stems]
    assert samples["split"].tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert samples["text"].tolist() == [f"report {stem}" for stem in stems]
    first = samples.iloc[0]
    assert first["image"] == str(tmp_path / "Train_Folder" / "img" / image.format("a0"))
    assert first["mask"] == str(tmp_path / "Train_Folder" / "labelcol" / mask.format("a0"))


def test_litter_is_no_data(tmp_path: Path) -> None:
    lvit(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a0.png"):
        (tmp_path / "Train_Folder" / "img" / name).touch()
    (tmp_path / "Train_Folder" / "~$Train_text.xlsx").touch()
    assert len(read_lvit(tmp_path)) == 6


def test_missing_root_names_both_remedies(tmp_path: Path) -> None:
    text = message(lambda: read_lvit(tmp_path / "gone"))
    assert text.startswith(f"{tmp_path / 'gone'}: expected a folder that holds Train_Folder, Val_F")
    assert "found no such folder" in text
    assert "`root`" in text
    assert "LCPDN_DATA_ROOT" in text
    assert "data/README.md" in text


def test_everything_wrong_is_listed_by_kind(tmp_path: Path) -> None:
    train, val, test = (lvit(tmp_path) / folder for folder in FOLDERS)
    (train / "labelcol" / "a0.png").unlink()
    picture(train / "labelcol" / "c0.png")
    picture(train / "labelcol" / "mask_b0.png")
    picture(train / "img" / "b0.tif")
    (train / "img" / "notes.txt").touch()
    reports(val / "Val_text.csv", {"a1.png": "x", "mask_a1.png": "y", "d1.png": "z"})
    (test / "labelcol").rename(test / "masks")
    text = message(lambda: read_lvit(tmp_path))
    assert text.startswith(f"{tmp_path}: expected one mask and one report for each image")
    for line in (
        f"1 images without a mask: {train / 'img' / 'a0.png'}",
        f"1 masks without an image: c0.png in {train / 'labelcol'}",
        f"1 masks of an image that has one already: mask_b0.png in {train / 'labelcol'}",
        f"1 images that share a name: {train / 'img' / 'b0.tif'} and b0.png",
        f"1 files that are no PNG, JPEG, TIFF or BMP: {train / 'img' / 'notes.txt'}",
        f"1 images without a report: {val / 'img' / 'b1.png'}",
        f"1 reports of an image that has one already: mask_a1.png in {val / 'Val_text.csv'}",
        f"1 reports without an image: d1.png in {val / 'Val_text.csv'}",
        f"1 missing folders: {test / 'labelcol'}",
    ):
        assert f"\n  {line}\n" in text
    assert text.endswith("data/README.md shows the layout.")


def test_twenty_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    lvit(tmp_path)
    for number in range(23):
        picture(tmp_path / "Val_Folder" / "labelcol" / f"z{number:02}.png")
    text = message(lambda: read_lvit(tmp_path))
    assert "23 masks without an image: z00.png" in text
    assert "z19.png in" in text
    assert "z20.png in" not in text
    assert ", ... and 3 more\n" in text


def test_missing_split_folder_and_empty_folder(tmp_path: Path) -> None:
    lvit(tmp_path)
    (tmp_path / "Val_Folder").rename(tmp_path / "Validation")
    for image in (tmp_path / "Test_Folder" / "img").iterdir():
        image.unlink()
    text = message(lambda: read_lvit(tmp_path))
    assert f"1 missing folders: {tmp_path / 'Val_Folder'}\n" in text
    assert f"1 folders without an image: {tmp_path / 'Test_Folder' / 'img'}\n" in text


def test_report_tables_none_two_and_broken(tmp_path: Path) -> None:
    train, val, test = (lvit(tmp_path) / folder for folder in FOLDERS)
    (train / "Train_text.csv").unlink()
    reports(val / "Val_text.xlsx", {"a1.png": "x"})
    (test / "Test_text.csv").write_text("File,Text\n")
    text = message(lambda: read_lvit(tmp_path))
    assert f"2 folders without exactly one *_text.xlsx or *.csv: {train} (none), {val} (" in text
    assert "Val_text.csv, Val_text.xlsx)" in text
    assert "1 report tables that cannot be used" in text
    assert "['File', 'Text']" in text


# Manifests

Rows = list[dict[str, str]]


def manifest(path: Path, rows: Rows) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(params=["m.csv", "m.jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in ("i/a.png", "i/b.png", "m/a.png"):
        picture(tmp_path / name)
    return tmp_path / str(request.param)


def row(**changes: str) -> dict[str, str]:
    return {
        "image": "i/a.png",
        "mask": "m/a.png",
        "text": "one\u2028area",
        "split": "train",
    } | changes


def test_manifest(path: Path) -> None:
    rows = [row(name="first"), row(image=str(path.parent / "i/b.png"), mask="", split="predict")]
    samples = read_manifest(manifest(path, [{"name": "", "age": "40"} | each for each in rows]))
    folder = path.parent
    assert tuple(samples.columns) == COLUMNS
    assert samples.to_numpy().tolist() == [
        [str(folder / "i/a.png"), str(folder / "m/a.png"), "one\u2028area", "train", "first", ""],
        [str(folder / "i/b.png"), "", "one\u2028area", "predict", "b", ""],
    ]


def test_manifest_without_names(path: Path) -> None:
    samples = read_manifest(manifest(path, [row(), row(image="i/b.png")]))
    assert samples["name"].tolist() == ["a", "b"]


def test_manifest_problems_are_all_listed(path: Path) -> None:
    rows = [
        row(image="i/gone.png", mask="m/gone.png"),
        row(image="", text=" "),
        row(mask=""),
        row(split="Train"),
        row(split=""),
    ]
    text = message(lambda: read_manifest(manifest(path, rows)))
    unit, first = ("row", 2) if path.suffix == ".csv" else ("line", 1)
    at = [f"{unit} {first + number}" for number in range(5)]
    assert text.startswith(f"{path}: expected an image, its mask, a text and a split in each row")
    assert f"{path.parent / 'i/gone.png'} ({at[0]}, image)" in text
    assert f"{path.parent / 'm/gone.png'} ({at[0]}, mask)" in text
    assert f"1 rows without an image: {at[1]}\n" in text
    assert f"1 rows without a text: {at[1]}\n" in text
    assert f"1 rows without a mask, which only the split predict may lack: {at[2]}\n" in text
    assert f"splits other than train, val, test, predict: Train ({at[3]}), none ({at[4]})" in text
    assert "relative to the manifest's folder" in text


def test_manifest_columns(path: Path) -> None:
    rows = [{"image": "i/a.png", "label": "m/a.png", "text": "x"}]
    text = message(lambda: read_manifest(manifest(path, rows)))
    assert f"{path}: expected the columns image, mask, text, split" in text
    assert "found image, label, text. Add mask, split." in text


def test_manifest_without_rows(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,mask,text,split")
    (tmp_path / "m.jsonl").touch()
    assert "m.csv: expected the columns" in message(lambda: read_manifest(tmp_path / "m.csv"))
    assert "m.jsonl: expected the columns" in message(lambda: read_manifest(tmp_path / "m.jsonl"))


def test_manifest_with_a_column_twice(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,mask,text,split,Text\n")
    assert "expected each column once" in message(lambda: read_manifest(tmp_path / "m.csv"))


def test_manifest_lines_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"image": \n\n[1]\n{"text": 5, "image": null}\n')
    text = message(lambda: read_manifest(path))
    assert text.startswith(f"{path}: expected one JSON object with string values in each line")
    assert "3 broken lines: line 1 (" in text
    assert "line 3 (no object), line 4 (text is no string)" in text


@pytest.mark.parametrize("line", ['{"text": "\\ud800"}', "[" * 100_000])
def test_manifest_lines_that_nothing_can_be_made_of(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.jsonl").write_text(line)
    assert "1 broken lines: line 1 (" in message(lambda: read_manifest(tmp_path / "m.jsonl"))


def test_manifest_with_a_text_in_the_place_of_a_path(path: Path) -> None:
    text = message(lambda: read_manifest(manifest(path, [row(mask="One area. " * 100)])))
    assert "1 missing files: " in text


def test_manifest_of_other_encoding(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes("é".encode("latin-1"))
    assert "m.jsonl: expected UTF-8" in message(lambda: read_manifest(tmp_path / "m.jsonl"))


def test_manifest_missing_or_of_another_kind(tmp_path: Path) -> None:
    assert "found no such file" in message(lambda: read_manifest(tmp_path / "m.csv"))
    assert ".csv or .jsonl" in message(lambda: read_manifest(tmp_path / "m.yaml"))


# Checks


@pytest.fixture
def samples(tmp_path: Path) -> pd.DataFrame:
    return read_lvit(lvit(tmp_path))


def test_good_samples_pass(samples: pd.DataFrame) -> None:
    check_samples(samples, SPLITS)


def test_same_content_inside_a_split_or_in_predict_passes(samples: pd.DataFrame) -> None:
    again = samples.iloc[[0, 0]].assign(name=["x", "y"], split=["train", "predict"], mask="")
    check_samples(pd.concat([samples, again]), SPLITS)


def test_all_that_is_wrong_with_samples_is_listed(samples: pd.DataFrame) -> None:
    images, masks = samples["image"].map(Path), samples["mask"].map(Path)
    images[0].write_bytes(b"")
    masks[1].write_bytes(b"nothing")
    picture(masks[2], size=(5, 8))
    images[4].write_bytes(images[3].read_bytes())
    samples.loc[5, "name"] = "a0"
    text = message(lambda: check_samples(samples, [*SPLITS, "predict"]))
    for line in (
        "1 empty splits: predict (found train: 2, val: 2, test: 2)",
        f"1 duplicate names: a0 ({images[0]}, {images[5]})",
        f"{images[2]} is 6x8 and {masks[2]} is 5x8",
        "1 images that are in two splits with the same content: "
        f"{images[3]} (val) and {images[4]} (test)",
    ):
        assert f"{line}\n" in text
    assert "2 unreadable files: " in text
    assert f"{images[0]}: expected a PNG, JPEG, TIFF or BMP picture, found an empty file" in text
    assert f"{masks[1]}: expected a PNG" in text
    assert "data/README.md" in text


def test_empty_files_are_no_leak(samples: pd.DataFrame) -> None:
    for place in (0, 4):
        Path(samples["image"][place]).write_bytes(b"")
    assert "same content" not in message(lambda: check_samples(samples, SPLITS))


def test_no_samples() -> None:
    nothing = pd.DataFrame(columns=list(COLUMNS), dtype=str)
    text = message(lambda: check_samples(nothing, SPLITS))
    assert "3 empty splits: train (found no sample), val (found no sample)" in text


# Protocols


def test_select_follows_the_protocol(samples: pd.DataFrame) -> None:
    protocol = pd.DataFrame({"name": ["b2", "a0", "a1"], "split": ["train", "val", "test"]})
    chosen = select(samples, protocol, "mine")
    assert tuple(chosen.columns) == COLUMNS
    assert chosen[["name", "split"]].equals(protocol)
    assert chosen["text"].tolist() == ["report b2", "report a0", "report a1"]
    assert samples["split"].tolist()[0] == "train"


def test_select_lists_what_is_missing(samples: pd.DataFrame) -> None:
    protocol = pd.DataFrame({"name": ["x", "a0", "y"], "split": ["train", "val", "test"]})
    assert message(lambda: select(samples, protocol, "mine")) == (
        "protocol mine names 2 images that are not in the data: x, y; get the full data set, see "
        "data/README.md, or use protocol: full"
    )


def test_select_refuses_a_name_that_is_there_twice(samples: pd.DataFrame) -> None:
    samples.loc[5, "name"] = "a0"
    protocol = pd.DataFrame({"name": ["a0"], "split": ["train"]})
    text = message(lambda: select(samples, protocol, "mine"))
    assert text.startswith("protocol mine: expected each name once in the data")
    assert f"a0 ({samples['image'][0]}, {samples['image'][5]})" in text


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "counts", "protocols"),
    [
        ("MoNuSeg", (24, 6, 14), [f"monuseg_{draw}" for draw in range(5)]),
        ("QaTa-COV19", (500, 120, 200), ["qata_cov19"]),
        ("MosMedDataPlus", (150, 20, 48), ["mosmed_plus_mixed", "mosmed_plus_by_volume"]),
    ],
)
def test_real_data(
    real_data: Path, folder: str, counts: tuple[int, int, int], protocols: list[str]
) -> None:
    samples = read_lvit(real_data / folder)
    found = samples["split"].value_counts()
    assert tuple(found[split] for split in SPLITS) == counts
    check_samples(samples, SPLITS)
    for name in protocols:
        protocol = read_protocol(name)
        assert len(select(samples, protocol, name)) == len(protocol)
