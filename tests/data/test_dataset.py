"""Samples keep their contract."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lcpdn_pl.data.dataset import SegmentationDataset
from lcpdn_pl.data.draws import EpochSampler
from lcpdn_pl.data.samples import read_lvit
from lcpdn_pl.data.transforms import Augmentation
from tests.conftest import TreeMaker


@pytest.fixture
def samples(make_tree: TreeMaker, tmp_path: Path) -> pd.DataFrame:
    table = read_lvit(make_tree(tmp_path / "tree"))
    return table[table["split"] == "train"]


def test_sample_contract(samples: pd.DataFrame) -> None:
    dataset = SegmentationDataset(samples, 16, (255,), mask_rule="native")
    assert len(dataset) == 4
    for index in range(4):
        sample = dataset[index]
        assert set(sample) == {"image", "mask", "text", "name"}
        image, mask = sample["image"], sample["mask"]
        assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, 16, 16))
        assert image.abs().max() <= 1
        assert (mask.dtype, tuple(mask.shape)) == (torch.int64, (16, 16))
        assert mask.unique().tolist() == [0, 1]
        assert image[:, mask == 1].mean() > image[:, mask == 0].mean() + 0.5  # the bright disc
        assert sample["name"] == f"train_{index}"
        assert sample["text"] == f"One round nuclei, {('right', 'left')[index % 2]} lung."


def test_mask_keeps_its_own_size_without_a_rule(samples: pd.DataFrame) -> None:
    sample = SegmentationDataset(samples, 16, (255,))[1]
    on_disk = np.array(Image.open(samples["mask"].iloc[1])) == 255
    assert sample["image"].shape == (3, 16, 16)
    assert sample["mask"].tolist() == on_disk.astype(int).tolist()


def test_rules_reach_the_mask(samples: pd.DataFrame) -> None:
    compat = SegmentationDataset(samples, 16, (255,), mask_rule="compat")[0]["mask"]
    native = SegmentationDataset(samples, 16, (255,), mask_rule="native")[0]["mask"]
    assert compat.sum() > native.sum()


def test_ignored_value_becomes_255(samples: pd.DataFrame) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[:20], mask[20:30] = 7, 2
    Image.fromarray(mask).save(samples["mask"].iloc[0])
    found = SegmentationDataset(samples, 20, (2,), ignore=7, mask_rule="native")[0]["mask"]
    assert found[:, 0].tolist() == [255] * 10 + [1] * 5 + [0] * 5


def test_no_mask_is_all_ignored(samples: pd.DataFrame) -> None:
    samples = samples.assign(mask="")
    assert SegmentationDataset(samples, 16, (255,))[0]["mask"].shape == (40, 40)
    resized = SegmentationDataset(samples, 16, (255,), mask_rule="compat")[0]["mask"]
    assert resized.shape == (16, 16)
    assert resized.eq(255).all()


def test_augmentation_waits_for_a_seed(samples: pd.DataFrame) -> None:
    plain = SegmentationDataset(samples, 16, (255,), mask_rule="native")
    augmented = SegmentationDataset(samples, 16, (255,), None, "native", Augmentation())
    assert torch.equal(plain[0]["image"], augmented[0]["image"])
    assert torch.equal(plain[0, 3]["image"], plain[0]["image"])
    assert any(not torch.equal(plain[0]["image"], augmented[0, s]["image"]) for s in range(4))


def test_text_follows_the_disc(samples: pd.DataFrame) -> None:
    augmented = SegmentationDataset(samples, 16, (255,), None, "native", Augmentation())
    texts = set()
    for seed in range(12):
        sample = augmented[0, seed]
        left, right = sample["mask"][:, :8].sum(), sample["mask"][:, 8:].sum()
        side = "left" if left > right else "right"
        assert sample["text"] == f"One round nuclei, {side} lung."
        texts.add(sample["text"])
    assert len(texts) == 2
    assert augmented[0]["text"] == "One round nuclei, right lung."


def test_workers_change_no_draw(samples: pd.DataFrame) -> None:
    def batches(workers: int) -> list[Any]:
        dataset = SegmentationDataset(samples, 16, (255,), None, "native", Augmentation())
        sampler = EpochSampler(len(dataset), seed=1)
        sampler.set_epoch(5)
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=workers))

    alone, helped = batches(0), batches(2)
    assert len(alone) == 2
    for one, two in zip(alone, helped, strict=True):
        assert (one["name"], one["text"]) == (two["name"], two["text"])
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["mask"], two["mask"])
