"""What files are and of which split, by the names of their folders."""

from pathlib import Path, PurePath

import pytest

from lcpdn_pl.data.prepare.layouts import recognise, split_of
from lcpdn_pl.data.prepare.sources import File
from lcpdn_pl.data.problems import Problems


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("Train_Folder/img", "train"),
        ("MoNuSeg 2018 Training Data/Tissue Images", "train"),
        ("MoNuSegTestData", "test"),
        ("QaTa-COV19-v2/Test Set/Ground-truths", "test"),
        ("VALIDATION/images", "val"),
        ("test/Train_text.csv", "train"),
        ("train and test/images", None),
        ("train/train and test", "train"),
        ("latest/contest/interval/Values/images", None),
        ("images", None),
        ("", None),
    ],
)
def test_split_words(path: str, split: str | None) -> None:
    assert split_of(PurePath(path)) == split


def files(root: Path, *names: str) -> list[File]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"the same")
    return [File(root / name, PurePath(name)) for name in names]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("img/a.png", "labelcol/a.png"),
        ("Images/a.JPG", "Ground-truths/mask_a.png"),
        ("frames/a.png", "masks/a.png"),
        ("Tissue Images/a.tif", "Annotations/a.xml"),
        ("TestData/a.tif", "TestData/a.xml"),
        ("images/deeper/a.bmp", "GROUND TRUTH/deeper/a.tiff"),
    ],
)
def test_folder_words(tmp_path: Path, image: str, mask: str) -> None:
    problems = Problems()
    found = recognise(files(tmp_path, image, mask, "other/b.png", "t.csv", "x.txt"), problems)
    assert not problems.kinds
    assert found.images["a"].path == tmp_path / image
    assert found.masks["a"].path == tmp_path / mask
    assert [file.path.name for file in found.tables] == ["t.csv"]
    assert sorted(file.path.name for file in found.others) == ["b.png", "x.txt"]


def test_a_mask_picture_goes_before_outlines(tmp_path: Path) -> None:
    found = recognise(files(tmp_path, "img/a.png", "masks/a.png", "a.xml"), Problems())
    assert found.masks["a"].path.name == "a.png"
    assert [file.path.name for file in found.others] == ["a.xml"]


def test_the_same_image_in_two_splits_is_no_twin(tmp_path: Path) -> None:
    problems = Problems()
    names = ["train/img/a.png", "train/masks/a.png", "test/img/a.png", "train/copy/img/a.png"]
    found = recognise(files(tmp_path, *names), problems)
    assert problems.kinds == {"images that share a name": ["test/img/a.png and train/img/a.png"]}
    assert [str(file.inside) for file in found.twins] == ["train/copy/img/a.png"]


def test_a_mask_of_another_split(tmp_path: Path) -> None:
    problems = Problems()
    recognise(files(tmp_path, "train/img/a.png", "test/masks/a.png"), problems)
    assert problems.kinds == {"masks in another split than their image": ["test/masks/a.png"]}
