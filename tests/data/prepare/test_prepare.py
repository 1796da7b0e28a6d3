"""Downloads of all known forms become trees that the data modules read."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.data import MoNuSeg, QaTaCOV19
from lcpdn_pl.data.prepare import Prepared, PublicSet, prepare
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.samples import read_lvit
from lcpdn_pl.errors import DataError
from tests.conftest import TreeMaker
from tests.data.prepare.test_annotations import SQUARE, document, region

SPLITS = {"train": "Train", "val": "Val", "test": "Test"}
MONUSEG = read_protocol("monuseg_0").groupby("split")["name"].apply(list)
QATA = read_protocol("qata_cov19").groupby("split")["name"].apply(list)

Cells = dict[str, str]


def picture(path: Path, seed: int, grey: bool = True, size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size) if grey else (size, size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def mask(path: Path, size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.zeros((size, size), np.uint8)
    drawn[2:5, 3:9] = 255
    Image.fromarray(drawn).save(path)


def table(path: Path, rows: Cells) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows.items(), columns=["Image", "Description"])
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        path.write_text(json.dumps(rows if path.stem.startswith("T") else frame.to_dict("records")))
    return path


def packed(folder: Path, archive: Path, top: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                target.write(file, Path(top) / file.relative_to(folder))
    return archive


def digests(folder: Path) -> Cells:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def counts(done: Prepared) -> dict[str, int]:
    return {str(split): len(rows) for split, rows in done.samples.groupby("split")}


@pytest.fixture
def tree(tmp_path: Path, make_tree: TreeMaker) -> Path:
    """A download in LViT's layout."""
    return make_tree(tmp_path / "download" / "LViT")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set"


def as_read(root: Path) -> pd.DataFrame:
    samples = read_lvit(root)
    for column in ("image", "mask"):
        samples[column] = [Path(path).relative_to(root).as_posix() for path in samples[column]]
    return samples


# LViT's own trees


@pytest.mark.parametrize(
    "form", ["folder", "above", "zip", "nested zip", "folder of zips", "tar.gz"]
)
def test_lvit_trees_come_out_as_they_are(tree: Path, out: Path, form: str, tmp_path: Path) -> None:
    source = {"folder": tree, "above": tree.parent}.get(form)
    if form == "tar.gz":
        source = Path(shutil.make_archive(str(tmp_path / "x"), "gztar", tree.parent))
    elif source is None:
        source = packed(tree, tmp_path / "x.zip", "data/LViT" if form == "nested zip" else "")
    if form == "folder of zips":
        source = tmp_path / "downloads"
        for folder in tree.iterdir():
            (source / "more").mkdir(parents=True, exist_ok=True)
            packed(folder, source / "more" / f"{folder.name}.zip")
    done = prepare("qata_cov19", source, out)
    assert as_read(out).equals(as_read(tree))
    before, after = digests(tree), digests(out)
    assert {name: after[name] for name in after if name.endswith(".png")} == {
        name: digest for name, digest in before.items() if name.endswith(".png")
    }
    assert (done.written, done.notes) == ((21, 0), [])
    assert not list(out.parent.glob(".*"))


def test_progress_is_told(tree: Path, out: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
        kept = list(items)
        told.append((what, len(kept), total))
        return kept

    prepare("qata_cov19", tree, out, track=track)
    assert told == [
        ("Reading images and masks", 9, 9),
        ("Hashing files", 21, 21),
        ("Copying files", 21, 21),
    ]


def test_checksums_can_be_checked(tree: Path, out: Path) -> None:
    prepare("qata_cov19", tree, out)
    first, *lines = (out / "CHECKSUMS.sha256").read_text().splitlines()
    assert first == "# lcpdn prepare qata_cov19: 4 train, 2 val, 3 test"
    listed = {line.split("  ")[1]: line.split("  ")[0] for line in lines}
    assert listed == {name: d for name, d in digests(out).items() if name != "CHECKSUMS.sha256"}


@pytest.mark.parametrize("kind", [".xlsx", ".json", ".csv"])
def test_upper_case_extensions_and_other_tables(tree: Path, out: Path, kind: str) -> None:
    for split in SPLITS.values():
        folder = tree / f"{split}_Folder"
        rows = pd.read_csv(folder / f"{split}_text.csv")
        (folder / f"{split}_text.csv").unlink()
        table(folder / f"{split}_text{kind}", dict(rows.to_numpy().tolist()))
        for file in (folder / "img").iterdir():
            file.rename(file.with_suffix(".PNG"))
    prepare("qata_cov19", tree, out)
    samples = read_lvit(out)
    assert len(samples) == 9
    assert samples["text"].str.contains("One round nuclei").all()
    assert all(path.endswith(".PNG") for path in samples["image"])


def test_the_source_of_reports_is_kept(tree: Path, out: Path) -> None:
    path = tree / "Val_Folder" / "Val_text.csv"
    pd.read_csv(path).assign(source=["mask", ""]).to_csv(path, index=False)
    prepare("qata_cov19", tree, out)
    assert read_lvit(out)["source"].tolist() == [""] * 4 + ["mask"] + [""] * 4


def test_folders_go_before_lists(tree: Path, out: Path) -> None:
    """A tree with validation images of its own is not sorted anew."""
    for part in ("img", "labelcol"):
        folder = tree / "Train_Folder" / part
        (folder / "train_0.png").rename(folder / f"{MONUSEG['val'][0]}.png")
    for table in tree.rglob("*.csv"):
        table.unlink()
    done = prepare("monuseg", tree, out, missing_reports="keep")
    assert counts(done) == {"train": 4, "val": 2, "test": 3}
    assert done.notes == ["9 images have no report; `lcpdn report-from-mask` can write them."]


# MoNuSeg as the challenge hands it out


@pytest.fixture
def monuseg(tmp_path: Path) -> Path:
    """Images and outlines; 3 of train, 2 of val, 1 of no list, and 2 of test."""
    root = tmp_path / "download"
    training = root / "MoNuSeg 2018 Training Data"
    for seed, name in enumerate([*MONUSEG["train"][:3], *MONUSEG["val"][:2], "TCGA-unknown"]):
        picture(training / "Tissue Images" / f"{name}.tif", seed, grey=False)
        (training / "Annotations").mkdir(exist_ok=True)
        (training / "Annotations" / f"{name}.xml").write_text(document(region(SQUARE)))
    for seed, name in enumerate(MONUSEG["test"][:2]):
        picture(root / "MoNuSegTestData" / f"{name}.tif", 100 + seed, grey=False)
        (root / "MoNuSegTestData" / f"{name}.xml").write_text(document(region(SQUARE)))
    return root


@pytest.mark.parametrize("form", ["folder", "zips"])
def test_monuseg_from_outlines(monuseg: Path, out: Path, tmp_path: Path, form: str) -> None:
    source = monuseg
    if form == "zips":
        (source := tmp_path / "zips").mkdir()
        packed(monuseg / "MoNuSegTestData", source / "MoNuSegTestData.zip")
        packed(
            monuseg / "MoNuSeg 2018 Training Data", source / "a.zip", "MoNuSeg 2018 Training Data"
        )
    names = [file.stem for file in monuseg.rglob("*.tif")]
    reports = table(tmp_path / "all.csv", {f"{name}.png": f"of {name}" for name in names})
    done = prepare("monuseg", source, out, reports)
    assert counts(done) == {"train": 4, "val": 2, "test": 2}
    assert done.notes == [
        "2 validation images are those of this package's list; no table names any.",
        "1 of the training images are in none of this package's lists.",
        "8 masks drawn from outlines.",
    ]
    data = MoNuSeg(str(out), protocol="full", image_size=12)
    data.setup("fit")
    samples = data.samples
    assert sorted(samples.loc[samples["split"] == "val", "name"]) == sorted(MONUSEG["val"][:2])
    assert (samples["text"] == "of " + samples["name"]).all()
    assert all((np.asarray(Image.open(path)) > 0).sum() == 20 for path in samples["mask"])
    assert {Path(path).suffix for path in samples["image"]} == {".tif"}
    assert prepare("monuseg", source, out, reports).written == (0, 19)


def test_monuseg_without_reports(monuseg: Path, out: Path) -> None:
    text = message(lambda: prepare("monuseg", monuseg, out))
    assert f"8 images without a report: {MONUSEG['train'][0]}.tif, " in text
    for remedy in ("--reports", "--missing_reports keep", "`lcpdn report-from-mask`", "no report"):
        assert remedy in text
    assert not out.exists()
    done = prepare("monuseg", monuseg, out, missing_reports="keep")
    assert "8 images have no report; `lcpdn report-from-mask` can write them." in done.notes
    assert not list(out.rglob("*.csv"))
    assert len(list(out.rglob("labelcol/*.png"))) == 8


def test_monuseg_where_some_reports_are_missing(monuseg: Path, out: Path, tmp_path: Path) -> None:
    names = [file.stem for file in monuseg.rglob("*.tif") if "unknown" not in file.stem]
    reports = table(tmp_path / "all.csv", {f"{name}.png": "some" for name in names})
    text = message(lambda: prepare("monuseg", monuseg, out, reports))
    assert "1 images without a report: TCGA-unknown.tif" in text
    assert "Some reports are missing" in text
    done = prepare("monuseg", monuseg, out, reports, "leave_out")
    assert counts(done) == {"train": 3, "val": 2, "test": 2}
    assert "1 images without a report left out." in done.notes
    assert len(read_lvit(out)) == 7


def test_bad_outlines_are_all_listed(monuseg: Path, out: Path) -> None:
    first, second, third = sorted((monuseg / "MoNuSeg 2018 Training Data").rglob("*.xml"))[:3]
    first.write_text("<Annotations>")
    second.unlink()
    third.rename(third.with_stem("TCGA-stray"))
    text = message(lambda: prepare("monuseg", monuseg, out, missing_reports="keep"))
    assert "1 unreadable files: " in text
    assert f"{first}: expected the outlines" in text
    assert "2 images without a mask: " in text
    assert "1 annotations without an image: " in text
    assert not out.exists()


# QaTa-COV19 and MosMedData+ as Kaggle hands them out


@pytest.fixture
def qata(tmp_path: Path) -> Path:
    """Version 2 with 5 and 3 images, beside the images of version 1."""
    root = tmp_path / "download" / "QaTa-COV19"
    for number in range(8):
        folder = root / "QaTa-COV19-v2" / ("Train Set" if number < 5 else "Test Set")
        picture(folder / "Images" / f"covid_{number}.png", number)
        mask(folder / "Ground-truths" / f"mask_covid_{number}.png")
    picture(root / "QaTa-COV19-v1" / "Images" / "covid_0.png", 50)
    (root / "QaTa-COV19-v2" / "README.txt").touch()
    return root


def qata_tables(folder: Path, kind: str) -> Path:
    for split, numbers in (("Train", (0, 1, 3)), ("Val", (2, 4)), ("Test", (5, 6, 7))):
        rows = {f"mask_covid_{number}.png": f"report {number}" for number in numbers}
        table(folder / f"{split}_text{kind}", rows)
    return folder


@pytest.mark.parametrize("kind", [".xlsx", ".csv", ".json"])
def test_qata_with_tables_that_tell_the_split(
    qata: Path, out: Path, tmp_path: Path, kind: str
) -> None:
    done = prepare("qata_cov19", qata, out, qata_tables(tmp_path / "tables", kind))
    samples = read_lvit(out)
    assert samples["name"].tolist() == [f"covid_{n}" for n in (0, 1, 3, 2, 4, 5, 6, 7)]
    assert samples["split"].tolist() == ["train"] * 3 + ["val"] * 2 + ["test"] * 3
    assert samples["text"].tolist() == [f"report {n}" for n in (0, 1, 3, 2, 4, 5, 6, 7)]
    assert done.notes == [
        "1 files of version 1 left out.",
        "1 files of another kind left out: QaTa-COV19-v2/README.txt.",
    ]
    data = QaTaCOV19(str(out), protocol="full")
    data.setup("test")


def test_qata_tables_beside_the_archive(qata: Path, out: Path, tmp_path: Path) -> None:
    source = qata_tables(tmp_path / "downloads", ".csv")
    packed(qata, source / "archive.zip", "QaTa-COV19")
    assert counts(prepare("qata_cov19", source, out)) == {"train": 3, "val": 2, "test": 3}


def test_qata_without_tables(qata: Path, out: Path) -> None:
    text = message(lambda: prepare("qata_cov19", qata, out))
    assert "8 images without a report: " in text
    assert "1 empty splits: val" in text
    assert "Tables named after train, val and test" in text
    images = qata / "QaTa-COV19-v2" / "Train Set"
    name = QATA["val"][0]
    (images / "Images" / "covid_0.png").rename(images / "Images" / f"{name}.png")
    (images / "Ground-truths" / "mask_covid_0.png").rename(
        images / "Ground-truths" / f"mask_{name}.png"
    )
    done = prepare("qata_cov19", qata, out, missing_reports="keep")
    assert counts(done) == {"train": 4, "val": 1, "test": 3}


def test_tables_that_contradict(qata: Path, out: Path, tmp_path: Path) -> None:
    tables = qata_tables(tmp_path / "tables", ".csv")
    table(tables / "Test_text.csv", {f"covid_{n}.png": "x" for n in (0, 4, 6, 7)})
    table(tables / "Train_text.csv", {f"covid_{n}.png": "x" for n in (0, 1, 3, 5)} | {"gone": "y"})
    text = message(lambda: prepare("qata_cov19", qata, out, tables))
    assert (
        "2 images with several reports, or of several splits: covid_0: 'x' (test) and 'x'" in text
    )
    assert "3 images in the folder of another split than their table or list says: " in text
    assert "covid_5.png (train)" in text


def test_rows_without_an_image_are_said(qata: Path, out: Path, tmp_path: Path) -> None:
    tables = qata_tables(tmp_path / "tables", ".csv")
    rows = {f"covid_{n}.png": "x" for n in (5, 6, 7)} | {"gone.png": "y"}
    table(tables / "Test_text.csv", rows)
    notes = prepare("qata_cov19", qata, out, tables).notes
    assert (
        "1 report rows of images that are not there left out: gone.png in Test_text.csv." in notes
    )


@pytest.mark.parametrize("flat", [True, False])
def test_mosmed_frames_and_masks(tmp_path: Path, out: Path, flat: bool) -> None:
    source = tmp_path / "download"
    for number, split in enumerate(["Train", "Train", "Val", "Test"]):
        top = source if flat else source / split
        picture(top / "frames" / f"slice_{number}.png", number)
        mask(top / "masks" / f"slice_{number}.png")
        table(source / f"{split}_text.csv", {f"slice_{number}.png": "x"})
    table(source / "Train_text.csv", {"slice_0.png": "x", "slice_1.png": "x"})
    assert counts(prepare("mosmed_plus", source, out)) == {"train": 2, "val": 1, "test": 1}
    if flat:
        for file in source.glob("*.csv"):
            file.unlink()
        text = message(lambda: prepare("mosmed_plus", source, out, missing_reports="keep"))
        assert "4 images whose split no folder, table or list tells: frames/slice_0.png" in text


# What is wrong with files


def test_all_that_is_wrong_is_listed(tree: Path, out: Path) -> None:
    train, val = tree / "Train_Folder", tree / "Val_Folder"
    torn = train / "img" / "train_0.png"
    torn.write_bytes(torn.read_bytes()[:-200])
    mask(train / "labelcol" / "train_1.png", size=39)
    grey = np.full((40, 40), 7, np.uint8)
    Image.fromarray(grey).save(train / "labelcol" / "train_2.png")
    picture(train / "labelcol" / "stray.png", 3)
    shutil.copy(train / "img" / "train_3.png", val / "img" / "val_0.png")
    text = message(lambda: prepare("monuseg", tree, out))
    for part in (
        "2 unreadable files: ",
        f"{torn}: expected a PNG",
        "train_2.png: expected the mask values 0, 255, found 7",
        "1 images and masks of different size",
        "1 masks without an image: Train_Folder/labelcol/stray.png",
        "1 images that are in two splits with the same content",
    ):
        assert part in text
    assert not out.exists()


def test_twins_are_taken_once_and_others_refused(tree: Path, out: Path, tmp_path: Path) -> None:
    packed(tree, tree.parent / "copy.zip")
    done = prepare("qata_cov19", tree.parent, out)
    assert "18 files that are there twice taken once." in done.notes
    assert len(read_lvit(out)) == 9
    picture(tree / "Test_Folder" / "img" / "test_0.png", 1, size=40)
    text = message(lambda: prepare("qata_cov19", tree.parent, tmp_path / "other"))
    assert "1 images that share a name: " in text


def test_links_are_followed_once(tree: Path, out: Path, tmp_path: Path) -> None:
    source = tmp_path / "links"
    source.mkdir()
    (source / "data").symlink_to(tree)
    (source / "again").symlink_to(source)
    (source / "nowhere").symlink_to(source / "nowhere")
    done = prepare("qata_cov19", source, out)
    assert len(done.samples) == 9
    assert done.notes == ["1 files of another kind left out: nowhere."]


@pytest.mark.parametrize("name", ["gone", "data.rar"])
def test_no_source(tmp_path: Path, out: Path, name: str) -> None:
    if name.endswith("rar"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="expected a folder or an archive"):
        prepare("monuseg", tmp_path / name, out)


def test_no_images(tmp_path: Path, out: Path) -> None:
    (tmp_path / "download").mkdir()
    with pytest.raises(DataError, match=r"download: expected images in folders .* none among 0"):
        prepare("monuseg", tmp_path / "download", out)


def test_the_result_lies_outside_of_the_source(tree: Path) -> None:
    with pytest.raises(DataError, match="expected a folder outside of the source"):
        prepare("monuseg", tree.parent, tree.parent / "out")


# Nothing is overwritten, nothing is lost


def test_a_second_run_changes_nothing(tree: Path, out: Path) -> None:
    prepare("qata_cov19", tree, out)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert prepare("qata_cov19", tree, out).written == (0, 21)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == times


def test_what_is_missing_is_added(tree: Path, out: Path) -> None:
    prepare("qata_cov19", tree, out)
    whole = digests(out)
    (out / "Val_Folder" / "img" / "val_0.png").unlink()
    shutil.rmtree(out / "Test_Folder")
    (out / "CHECKSUMS.sha256").unlink()
    assert prepare("qata_cov19", tree, out).written == (8, 13)
    assert digests(out) == whole


def test_reports_are_added_to_a_tree_without_them(tree: Path, out: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for split in SPLITS.values():
        (tree / f"{split}_Folder" / f"{split}_text.csv").rename(tables / f"{split}_text.csv")
    prepare("qata_cov19", tree, out, missing_reports="keep")
    assert prepare("qata_cov19", tree, out, tables).written == (3, 18)
    assert len(read_lvit(out)) == 9
    assert len((out / "CHECKSUMS.sha256").read_text().splitlines()) == 22


def test_other_content_is_not_overwritten(tree: Path, out: Path) -> None:
    prepare("qata_cov19", tree, out)
    changed = [out / "Train_Folder" / "img" / "train_1.png", out / "Val_Folder" / "Val_text.csv"]
    for file in changed:
        file.write_bytes(b"mine")
    shutil.rmtree(out / "Test_Folder")
    before = digests(out)
    text = message(lambda: prepare("qata_cov19", tree, out))
    assert f"2 files that are there with another content: {changed[0]}, {changed[1]}\n" in text
    assert digests(out) == before


def test_images_of_another_source_are_not_mixed_in(tree: Path, out: Path) -> None:
    others = [out / "Train_Folder" / "img" / "other.png", out / "Val_Folder" / "Val_text.xlsx"]
    picture(others[0], 0)
    table(others[1], {"a": "b"})
    before = digests(out)
    text = message(lambda: prepare("qata_cov19", tree, out))
    assert f"2 files that are none of this source: {others[0]}, {others[1]}\n" in text
    assert digests(out) == before


def test_a_foreign_list_of_checksums_is_refused(tree: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "CHECKSUMS.sha256").write_text("something else\n")
    with pytest.raises(DataError, match="expected a list of checksums"):
        prepare("qata_cov19", tree, out)


@pytest.mark.parametrize("dies_at", [1, 7, 18])
@pytest.mark.parametrize("there", [False, True])
def test_a_killed_run_is_continued(
    tree: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_at: int,
    there: bool,
) -> None:
    source = packed(tree, tmp_path / "x.zip")
    if there:
        out.mkdir(parents=True)
        (out / "notes.txt").touch()
    copy, copied = shutil.copyfile, []

    def die(content: Path, part: Path) -> None:
        copied.append(content)
        if len(copied) == dies_at:
            part.write_bytes(b"torn")
            raise KeyboardInterrupt
        copy(content, part)

    monkeypatch.setattr(shutil, "copyfile", die)
    with pytest.raises(KeyboardInterrupt):
        prepare("qata_cov19", source, out)
    assert not list(out.glob("*Folder"))
    done = prepare("qata_cov19", source, out)
    assert len(copied) == 18 + 1  # none but the torn one was copied again
    assert done.written == (21, 0)
    assert as_read(out).equals(as_read(tree))
    assert [file.name for file in out.rglob("*part*")] == []
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_what_another_source_left_staged_does_not_come_in(tree: Path, out: Path) -> None:
    picture(out.parent / ".set.part" / "tree" / "Train_Folder" / "img" / "other.png", 0)
    picture(out.parent / ".set.part" / "tree" / "Train_Folder" / "img" / "train_0.png", 0)
    prepare("qata_cov19", tree, out)
    assert as_read(out).equals(as_read(tree))


def test_a_file_that_changes_while_it_is_copied(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfile", lambda _, part: part.write_bytes(b"other"))
    with pytest.raises(DataError, match="found it changed while it was copied"):
        prepare("qata_cov19", tree, out)
    assert not out.exists()


# The real data


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "folder"),
    [("monuseg", "MoNuSeg"), ("qata_cov19", "QaTa-COV19"), ("mosmed_plus", "MosMedDataPlus")],
)
def test_real_trees_in_a_zip(
    real_data: Path, name: PublicSet, folder: str, tmp_path: Path, out: Path
) -> None:
    """Three samples of each split."""
    samples = as_read(real_data / folder).groupby("split", sort=False).head(3)
    part = tmp_path / "part"
    for path in [*samples["image"], *samples["mask"]]:
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real_data / folder / path, part / path)
    for path in (real_data / folder).glob("*/*_text.*"):
        shutil.copyfile(path, part / path.relative_to(real_data / folder))
    archive = packed(part, tmp_path / f"{folder}.zip", f"datasets/{folder}")
    done = prepare(name, archive, out)
    assert as_read(out).equals(samples.reset_index(drop=True))
    assert len(done.notes) == 1  # the rows of the other images
