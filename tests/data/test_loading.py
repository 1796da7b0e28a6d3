"""From samples to batches: masks, augmentation, order, data modules."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from lcpdn_pl.data import Manifest, MoNuSeg, MosMedPlus, Phantom, QaTaCOV19, phantom
from lcpdn_pl.data.dataset import EpochSampler
from lcpdn_pl.data.masks import resize_mask
from lcpdn_pl.data.transforms import Augmentation, names_a_side, resize_image, to_tensor
from lcpdn_pl.errors import ConfigError, DataError
from tests.conftest import TreeMaker


def test_compat_grows_borders_and_native_takes_the_nearest_pixel() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 1] = 1
    assert resize_mask(mask, (2, 2), "compat").tolist() == [[1, 0], [0, 0]]
    large = (np.random.default_rng(0).random((50, 70)) > 0.8).astype(np.uint8)
    compat = resize_mask(large, (16, 20), "compat")
    wanted = cv2.resize(large * 255, (20, 16), interpolation=cv2.INTER_LINEAR) > 0
    assert np.array_equal(compat, wanted)
    native = resize_mask(large, (16, 20), "native")
    assert native.mean() < compat.mean()
    rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in ((16, 50), (20, 70)))
    assert np.array_equal(native, large[np.ix_(rows.astype(int), columns.astype(int))])


def test_ignored_pixels_stay_ignored_under_both_rules() -> None:
    mask = np.full((4, 4), 255, np.uint8)
    mask[:, 2:] = 1
    for rule in ("compat", "native"):
        assert resize_mask(mask, (2, 2), rule).tolist() == [[255, 1], [255, 1]]


def test_images_become_tensors_between_minus_one_and_one() -> None:
    image = np.zeros((40, 20, 3), np.uint8)
    image[:, :, 0] = 255
    tensor = to_tensor(resize_image(image, 16))
    assert tensor.shape == (3, 16, 16)
    assert tensor[0].eq(1).all()
    assert tensor[1:].eq(-1).all()


@pytest.mark.parametrize(
    ("report", "sided"),
    [
        ("Many nuclei crowd the upper edge.", True),
        ("Infection of the Left lung.", True),
        ("One infected area, middle lung.", True),
        ("The nuclei lie evenly.", False),
        ("Copyright lowered.", False),
    ],
)
def test_side_words(report: str, sided: bool) -> None:
    assert names_a_side(report) is sided


def test_augmentation_moves_image_and_mask_together_and_never_a_side() -> None:
    augment = Augmentation()
    mask = np.zeros((64, 64), np.uint8)
    mask[4:24, 4:14] = 1
    image = np.repeat(mask[..., None] * 255, 3, axis=2)
    moved = 0
    for seed in range(60):
        changed, target = augment(image, mask, "Upper left.", seed)
        assert set(np.unique(target)) <= {0, 1}
        assert target[:32, :32].sum() > 0.9 * target.sum()
        bright = cv2.GaussianBlur(changed[..., 0], (3, 3), 0) > changed.mean()
        assert (bright & (target == 1)).sum() > 0.9 * target.sum()
        free = augment(image, mask, "Nuclei.", seed)[1]
        moved += free[:32, :32].sum() < 0.5 * free.sum()
    assert moved > 20
    assert mask.sum() == 200


def test_augmentation_follows_its_seed() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    first = Augmentation()(image, mask, "Nuclei.", 7)[0]
    again = Augmentation()
    again(image, mask, "Nuclei.", 8)
    assert np.array_equal(first, again(image, mask, "Nuclei.", 7)[0])
    assert not np.array_equal(first, again(image, mask, "Nuclei.", 8)[0])


def test_epoch_and_seed_decide_the_order() -> None:
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert sorted(index for index, _ in first) == list(range(10))
    assert list(EpochSampler(10, seed=3)) == first
    assert list(EpochSampler(10, seed=4)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("module", [MoNuSeg, QaTaCOV19, MosMedPlus])
def test_public_data_modules(
    module: type[MoNuSeg], make_tree: TreeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / module.folder)
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path))
    data = module(protocol="full", image_size=16, batch_size=2)
    data.setup("fit")
    assert data.samples["split"].value_counts().to_dict() == {"train": 4, "val": 2, "test": 3}
    train, (val,) = list(data.train_dataloader()), list(data.val_dataloader())
    assert len(train) == 2
    for batch in (*train, val):
        assert batch["image"].shape == (2, 3, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert batch["image"].abs().max() <= 1
        assert batch["mask"].shape == (2, 16, 16)
        assert batch["mask"].dtype == torch.int64
        assert set(batch["mask"].unique().tolist()) == {0, 1}
        assert [type(value) for value in batch["text"]] == [str, str]
    assert val["name"] == ["val_0", "val_1"]
    assert val["text"][1] == "One round nuclei, left lung."
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        single = list(loader)
        assert [batch["mask"].shape for batch in single] == [(1, 40, 40)] * 3
        assert [batch["image"].shape for batch in single] == [(1, 3, 16, 16)] * 3


def test_workers_change_nothing(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree"))
    batches = []
    for workers in (0, 2):
        torch.manual_seed(5)
        data = MoNuSeg(root, "full", image_size=16, num_workers=workers)
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    for alone, helped in zip(*batches, strict=True):
        assert alone["name"] == helped["name"]
        assert torch.equal(alone["image"], helped["image"])


def test_reports_can_be_shuffled_or_emptied(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", counts=(1, 1, 5))
    table = root / "Test_Folder" / "Test_text.csv"
    rows = [f"test_{index}.png,Report {index}" for index in range(5)]
    table.write_text("\n".join(["Image,Description", *rows]))
    texts = {}
    for kind in ("right", "shuffled", "empty"):
        data = MoNuSeg(str(root), "full", image_size=16, test_reports=kind)
        data.setup("test")
        texts[kind] = [batch["text"][0] for batch in data.test_dataloader()]
    assert texts["empty"] == [""] * 5
    assert sorted(texts["shuffled"]) == texts["right"] == [f"Report {i}" for i in range(5)]
    assert all(one != other for one, other in zip(texts["right"], texts["shuffled"], strict=True))


def test_mask_values_belong_to_the_data_set(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree", values=(0, 127)))
    two_classes, one_class = MosMedPlus(root, "full", 16), MoNuSeg(root, "full", 16)
    for data in (two_classes, one_class):
        data.setup("fit")
    assert next(iter(two_classes.val_dataloader()))["mask"].max() == 1
    with pytest.raises(DataError, match="127"):
        next(iter(one_class.val_dataloader()))


def test_settings_that_cannot_be(make_tree: TreeMaker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no protocol 'best'; use one of paper, by_volume, full"):
        MosMedPlus(protocol="best")
    cases: list[dict[str, Any]] = [
        {"foreground": [0, 1]},
        {"foreground": []},
        {"foreground": [2], "ignore": 2},
    ]
    for settings in cases:
        with pytest.raises(ConfigError, match="no mask values"):
            Manifest("some.csv", **settings)
    root = make_tree(tmp_path / "tree", counts=(2, 1, 0))
    with pytest.raises(DataError, match="without an image"):
        MoNuSeg(str(root), "full").setup("test")


def test_manifest_with_images_to_predict(make_tree: TreeMaker, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    rows = [
        (f"tree/Train_Folder/img/train_{i}.png", f"tree/Train_Folder/labelcol/train_{i}.png", s)
        for i, s in enumerate(("train", "val", "test"))
    ]
    rows.append(("tree/Test_Folder/img/test_0.png", "", "predict"))
    table = pd.DataFrame(rows, columns=["image", "mask", "split"]).assign(text="Nuclei.")
    table.to_csv(tmp_path / "clinic.csv", index=False)
    data = Manifest(str(tmp_path / "clinic.csv"), image_size=16)
    data.setup("predict")
    assert data.name == "clinic"
    (batch,) = list(data.predict_dataloader())
    assert batch["name"] == ["test_0"]
    assert batch["mask"].eq(255).all()
    assert batch["mask"].shape == (1, 40, 40)


def test_phantoms_are_drawn_once_and_alike(tmp_path: Path) -> None:
    def files(root: str) -> dict[str, bytes]:
        data = Phantom(str(tmp_path / root), counts=(3, 1, 2), image_size=32)
        data.prepare_data()
        data.setup("fit")
        assert [name.rpartition("_")[2] for name in data.samples["name"]][:3] == [
            "nuclei",
            "xray",
            "ct",
        ]
        assert data.root.name == "nuclei-xray-ct-3-1-2-32px-seed0"
        paths = [path for path in data.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(data.root)): path.read_bytes() for path in paths}

    first = files("a")
    assert len(first) == 6 * 2 + 3
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "a").rglob("*.png"))]
    assert files("a") == first
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "a").rglob("*.png"))] == times
    assert files("b") == first


def test_phantoms_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(phantom, "draw_phantom", fail)
    with pytest.raises(OSError, match="disk full"):
        Phantom(str(tmp_path / "root"), counts=(1, 1, 1), image_size=32).prepare_data()
    assert list((tmp_path / "root").iterdir()) == []


def test_each_stage_checks_the_splits_that_it_needs(make_tree: TreeMaker, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    row = {"image": "tree/Test_Folder/img/test_0.png", "mask": "", "text": "Nuclei."}
    pd.DataFrame([row | {"split": "predict"}]).to_csv(tmp_path / "new.csv", index=False)
    data = Manifest(str(tmp_path / "new.csv"), image_size=16)
    data.setup("predict")
    with pytest.raises(DataError, match="train"):
        data.setup("fit")


def test_phantoms_can_be_read_by_others(tmp_path: Path) -> None:
    data = Phantom(str(tmp_path), counts=(1, 1, 1), image_size=32)
    data.prepare_data()
    assert data.root.stat().st_mode & 0o777 == 0o755
