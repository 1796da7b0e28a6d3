"""Reports from masks are written where there are none, and marked."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.data import Manifest, QaTaCOV19
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.manifest import read_manifest
from lcpdn_pl.data.mask_tables import write_reports
from lcpdn_pl.errors import DataError
from tests.conftest import TreeMaker

SPLITS = ("Train", "Val", "Test")
LUNG = "Unilateral pulmonary infection, one infected area, "


@pytest.fixture
def tree(tmp_path: Path, make_tree: TreeMaker) -> Path:
    """A tree with discs, right ones first, and their reports."""
    return make_tree(tmp_path / "tree")


@pytest.fixture
def bare(tree: Path) -> Path:
    """The same without reports."""
    for table in tree.rglob("*.csv"):
        table.unlink()
    return tree


def table(tree: Path, split: str) -> Path:
    return tree / f"{split}_Folder" / f"{split}_text.csv"


def test_a_tree_without_reports(bare: Path) -> None:
    done = write_reports(bare, "lungs", (255,))
    assert done.to_numpy().tolist() == [
        [table(bare, split), split.lower(), count, 0]
        for split, count in zip(SPLITS, (4, 2, 3), strict=True)
    ]
    assert table(bare, "Val").read_text().splitlines()[0] == "Image,Description,source"
    samples = read_lvit(bare)
    assert (samples["source"] == "mask").all()
    for place, text in enumerate(samples["text"][:4]):
        assert text.startswith(LUNG)
        assert text.endswith(f"{('right', 'left')[place % 2]} lung.")
    with pytest.raises(DataError, match=r"found that each has one\. Give --force"):
        write_reports(bare, "lungs", (255,))


def test_reports_that_are_there_stay(tree: Path) -> None:
    rows = pd.read_csv(table(tree, "Train")).assign(Age=[1, 2, 3, 4]).iloc[[2, 0]]
    rows.to_csv(table(tree, "Train"), index=False)
    table(tree, "Test").unlink()
    before = table(tree, "Val").read_bytes()
    done = write_reports(tree, "generic", (255,))
    assert done[["split", "written", "kept"]].to_numpy().tolist() == [
        ["train", 2, 2],
        ["test", 3, 0],
    ]
    assert table(tree, "Val").read_bytes() == before
    written = pd.read_csv(table(tree, "Train"), dtype=str, na_filter=False)
    assert list(written.columns) == ["Image", "Description", "Age", "source"]
    assert written["Age"].tolist() == ["3", "1", "", ""]
    samples = read_lvit(tree)
    assert samples["source"].tolist() == ["", "mask", "", "mask", "", "", *["mask"] * 3]
    assert samples["text"][0] == "One round nuclei, right lung."
    assert samples["text"][1] == "One area, 9 % of the image, in the upper left."


def test_force_writes_anew_and_keeps_the_old_table(tree: Path) -> None:
    before = table(tree, "Train").read_bytes()
    pd.read_csv(table(tree, "Val")).to_excel(table(tree, "Val").with_suffix(".xlsx"), index=False)
    table(tree, "Val").unlink()
    for _ in range(2):  # what was made from masks is not kept aside
        assert write_reports(tree, "lungs", (255,), force=True)["written"].tolist() == [4, 2, 3]
    assert (read_lvit(tree)["source"] == "mask").all()
    assert table(tree, "Train").with_name("Train_text.csv.bak").read_bytes() == before
    assert table(tree, "Val").with_name("Val_text.xlsx.bak").is_file()
    table(tree, "Train").write_bytes(before)
    (table(tree, "Test").with_name("Test_text.csv.bak")).unlink()
    tests = table(tree, "Test").read_bytes()
    with pytest.raises(DataError, match=r"1 files that are there: .*Train_text\.csv\.bak"):
        write_reports(tree, "lungs", (255,), force=True)
    assert table(tree, "Train").read_bytes() == before
    assert table(tree, "Test").read_bytes() == tests


def test_a_spreadsheet_of_reports_from_masks_makes_room(tree: Path) -> None:
    """The new table is a .csv, and a folder has one table."""
    rows = pd.read_csv(table(tree, "Val")).assign(source="mask")
    rows.to_excel(table(tree, "Val").with_suffix(".xlsx"), index=False)
    table(tree, "Val").unlink()
    write_reports(tree, "lungs", (255,), force=True)
    assert (read_lvit(tree)["source"] == "mask").all()
    assert table(tree, "Val").with_name("Val_text.xlsx.bak").is_file()


def test_spreadsheets_and_several_tables_are_not_added_to(tree: Path) -> None:
    rows = pd.read_csv(table(tree, "Train"))
    rows.iloc[:2].to_excel(table(tree, "Train").with_suffix(".xlsx"), index=False)
    table(tree, "Train").unlink()
    rows.to_csv(tree / "Val_Folder" / "other.csv", index=False)
    with pytest.raises(DataError) as caught:
        write_reports(tree, "lungs", (255,))
    assert "1 spreadsheets that lack rows" in str(caught.value)
    assert f"1 folders with several report tables: {tree / 'Val_Folder'}" in str(caught.value)


def test_masks_that_cannot_be_used_are_all_listed(bare: Path) -> None:
    wrong = [
        bare / "Train_Folder" / "labelcol" / "train_1.png",
        bare / "Test_Folder" / "labelcol" / "test_0.png",
    ]
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(wrong[0])
    wrong[1].write_bytes(b"")
    (bare / "Val_Folder" / "labelcol" / "val_1.png").unlink()
    with pytest.raises(DataError, match=r"1 images without a mask"):
        write_reports(bare, "lungs", (255,))
    (bare / "Val_Folder" / "img" / "val_1.png").unlink()
    with pytest.raises(DataError) as caught:
        write_reports(bare, "lungs", (255,))
    assert "2 masks that cannot be used: " in str(caught.value)
    assert all(f"{path}: expected" in str(caught.value) for path in wrong)
    assert "--foreground" in str(caught.value)
    assert not list(bare.rglob("*.csv"))


# Manifests


@pytest.fixture
def rows(tree: Path) -> list[dict[str, object]]:
    samples = read_lvit(tree).drop(columns=["name", "source"])
    for column in ("image", "mask"):
        samples[column] = [str(Path(path).relative_to(tree.parent)) for path in samples[column]]
    samples["age"] = 40
    return [{str(title): cell for title, cell in row.items()} for row in samples.to_dict("records")]


def manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_manifest_without_texts(tmp_path: Path, rows: list[dict[str, object]], name: str) -> None:
    for row in rows[1:]:
        del row["text"]
    path = manifest(tmp_path / name, rows)
    before = path.read_bytes()
    done = write_reports(path, "lungs", (255,))
    out = tmp_path / "m_reports.csv"
    assert done.to_numpy().tolist() == [
        [out, "train", 3, 1],
        [out, "val", 2, 0],
        [out, "test", 3, 0],
    ]
    assert path.read_bytes() == before
    samples = read_manifest(out)
    assert samples["source"].tolist() == [""] + ["mask"] * 8
    assert samples["text"][0] == "One round nuclei, right lung."
    assert samples["text"][1].startswith(LUNG)
    assert pd.read_csv(out)["age"].tolist() == [40] * 9
    with pytest.raises(DataError, match=r"m_reports\.csv: expected no such file"):
        write_reports(path, "lungs", (255,))
    write_reports(path, "lungs", (255,), force=True)
    assert (read_manifest(out)["source"] == "mask").all()


def test_a_manifest_with_nothing_to_write_or_without_masks(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    with pytest.raises(DataError, match="found that each has one"):
        write_reports(manifest(tmp_path / "m.csv", rows), "lungs", (255,))
    rows[2] |= {"mask": "", "text": ""}
    rows[4] |= {"mask": "gone" * 100, "text": ""}  # longer than a file's name can be
    with pytest.raises(DataError, match=r"2 rows without a report, and .*: row 4, row 6\n"):
        write_reports(manifest(tmp_path / "m.csv", rows), "lungs", (255,))
    assert not (tmp_path / "m_reports.csv").exists()


# Who uses them is warned


def test_a_tree_warns_of_leakage(bare: Path) -> None:
    write_reports(bare, "lungs", (255,))
    data = QaTaCOV19(str(bare), protocol="full")
    with pytest.warns(
        UserWarning, match="LEAKAGE: the reports of 2 val and 3 test images"
    ) as caught:
        data.setup("fit")
    assert sum("LEAKAGE" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup("test")  # said once


def test_a_manifest_warns_of_leakage(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    rows[-1]["source"] = "mask"
    path = manifest(tmp_path / "m.csv", rows)
    with pytest.warns(UserWarning, match="LEAKAGE: the reports of 1 test images"):
        Manifest(str(path)).setup("test")


@pytest.mark.filterwarnings("error:LEAKAGE")
def test_training_reports_from_masks_are_no_leak(tree: Path) -> None:
    table(tree, "Train").unlink()
    write_reports(tree, "lungs", (255,))
    QaTaCOV19(str(tree), protocol="full").setup("fit")
