"""A manifest of one's own, from the table to batches."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.data import Manifest
from lcpdn_pl.data.samples import read_lvit
from lcpdn_pl.errors import ConfigError, DataError
from tests.conftest import TreeMaker


@pytest.fixture
def table(make_tree: TreeMaker, tmp_path: Path) -> pd.DataFrame:
    """The rows of a tree, with paths relative to the manifest's folder."""
    samples = read_lvit(make_tree(tmp_path / "tree")).drop(columns="name")
    for column in ("image", "mask"):
        samples[column] = [str(Path(p).relative_to(tmp_path)) for p in samples[column]]
    return samples


def _write(table: pd.DataFrame, tmp_path: Path) -> str:
    table.to_csv(tmp_path / "clinic.csv", index=False)
    return str(tmp_path / "clinic.csv")


def test_manifest_end_to_end(table: pd.DataFrame, tmp_path: Path) -> None:
    data = Manifest(_write(table, tmp_path), image_size=16, batch_size=2)
    assert (data.name, data.mask_rule, data.foreground) == ("clinic", "native", (1, 255))
    data.setup("fit")
    assert data.samples["split"].value_counts().to_dict() == {"train": 4, "val": 2, "test": 3}
    train, (val,), test = (
        list(loader)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    assert [batch["image"].shape for batch in train] == [(2, 3, 16, 16)] * 2
    assert {name for batch in train for name in batch["name"]} == {f"train_{i}" for i in range(4)}
    assert val["name"] == ["val_0", "val_1"]
    assert val["text"] == ["One round nuclei, right lung.", "One round nuclei, left lung."]
    assert val["mask"].unique().tolist() == [0, 1]
    assert [batch["mask"].shape for batch in test] == [(1, 40, 40)] * 3
    # Without a split predict the test images are predicted.
    assert [batch["name"] for batch in data.predict_dataloader()] == [b["name"] for b in test]


@pytest.mark.parametrize(
    ("foreground", "ignore"),
    [([], None), ([0], None), ([0, 1], None), ([1], 1), ([1, 2], 2), ([1], 0)],
)
def test_settings_that_contradict(foreground: list[int], ignore: int | None) -> None:
    with pytest.raises(ConfigError, match="no mask values") as error:
        Manifest("some.csv", foreground=foreground, ignore=ignore)
    assert f"foreground={foreground} and ignore={ignore}" in str(error.value)


def test_foreground_and_ignore_are_read(table: pd.DataFrame, tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[:10], mask[10:30] = 255, 3
    for path in table.loc[table["split"] == "test", "mask"]:
        Image.fromarray(mask).save(tmp_path / path)
    root = _write(table, tmp_path)
    data = Manifest(root, foreground=[3], ignore=255)
    data.setup("test")
    found = next(iter(data.test_dataloader()))["mask"]
    assert found[0, :, 5].tolist() == [255] * 10 + [1] * 20 + [0] * 10
    plain = Manifest(root)
    plain.setup("test")
    with pytest.raises(DataError, match="expected the mask values 0, 1, 255, found"):
        next(iter(plain.test_dataloader()))


def test_predict_needs_no_mask(table: pd.DataFrame, tmp_path: Path) -> None:
    table.loc[table["split"] == "test", ["mask", "split"]] = ["", "predict"]
    data = Manifest(_write(table, tmp_path), image_size=16)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [batch["name"] for batch in batches] == [["test_0"], ["test_1"], ["test_2"]]
    for batch in batches:
        assert batch["mask"].shape == (1, 40, 40)
        assert batch["mask"].eq(255).all()
        assert batch["image"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("stage", "split"), [("fit", "train"), ("fit", "val"), ("validate", "val"), ("test", "test")]
)
def test_a_stage_needs_its_splits(
    stage: str, split: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    root = _write(table[table["split"] != split], tmp_path)
    with pytest.raises(DataError, match=rf"1 empty splits: {split} \(found"):
        Manifest(root).setup(stage)
    if split == "test":
        with pytest.raises(DataError, match="expected images of the split predict or, without any"):
            Manifest(root).setup("predict")
    else:
        Manifest(root).setup("predict")


@pytest.mark.parametrize("turns", [False, True])
def test_images_are_turned_where_the_user_says_so(
    turns: bool, table: pd.DataFrame, tmp_path: Path
) -> None:
    table["text"] = "Consolidation on the left."  # no word of it says that this is a chest
    root = _write(table, tmp_path)
    data = Manifest(root, turns=turns, augment="dihedral") if turns else Manifest(root)
    data.setup("fit")
    texts = set()
    for epoch in range(20):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        texts |= {text for batch in loader for text in batch["text"]}
    sides = {text.removeprefix("Consolidation on the ").rstrip(".") for text in texts}
    assert sides == ({"left", "right", "upper", "lower"} if turns else {"left", "right"})


def test_data_set_up_for_one_stage_is_checked_for_the_next(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    data = Manifest(_write(table[table["split"] == "test"], tmp_path))
    data.setup("predict")
    with pytest.raises(DataError, match=r"train \(found test: 3\)"):
        data.setup("fit")
