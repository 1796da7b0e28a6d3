"""Unlabelled images: what is learnt from, what is not, and how crops are cut."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lcpdn_pl.data import ImagePool, Source
from lcpdn_pl.data.images import read_image
from lcpdn_pl.data.pool import Crop, CropDataset, CropSampler, WholeDataset, pixel_hash
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.errors import ConfigError, DataError
from tests.conftest import TreeMaker, quiet_trainer, write_images
from tests.data.test_datamodule import assert_start_of_workers, worker_state

HEIGHT, WIDTH = 200, 250


def listed(*sources: Source, held_out: int = 2) -> pd.DataFrame:
    pool = ImagePool(list(sources), held_out=held_out)
    pool.setup("fit")
    return pool.samples


def names(samples: pd.DataFrame, split: str) -> list[str]:
    return [Path(image).stem for image in samples.loc[samples["split"] == split, "image"]]


def table_of(*images: Path, turns: bool = False) -> pd.DataFrame:
    return pd.DataFrame({"image": [str(image) for image in images], "turns": turns})


def test_folder_gives_up_evenly_spread_images_whatever_their_suffix(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 20)
    write_images(tmp_path / "photos" / "deep", 11, suffix=".TIF")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "._image_00.png").write_text("what a file manager left behind")
    samples = listed(Source(str(tmp_path / "photos"), turns=True), held_out=3)
    found = sorted(tmp_path.rglob("image_*"))
    assert len(found) == 31
    held_out = [str(found[index]) for index in (0, 15, 30)]
    assert samples.loc[samples["split"] == "val", "image"].tolist() == held_out
    learnt = samples.loc[samples["split"] == "train", "image"].tolist()
    assert learnt == [str(path) for path in found if str(path) not in held_out]
    assert set(samples["source"]) == {str(tmp_path / "photos")}
    assert samples["turns"].all()


def test_small_folder_gives_up_a_tenth_at_most(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 25)
    samples = listed(Source(str(folder)), held_out=8)
    assert names(samples, "val") == ["image_00", "image_24"]
    assert not samples["turns"].any()


def test_tree_gives_neither_masks_nor_test_images(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", counts=(4, 5, 3))
    samples = listed(Source(str(root)), held_out=3)
    images = {
        split: [str(root / f"{split.title()}_Folder" / "img" / f"{split}_{i}.png") for i in which]
        for split, which in (("train", range(4)), ("val", (0, 2, 4)))
    }
    assert samples["image"].tolist() == images["train"] + images["val"]
    assert samples["split"].tolist() == ["train"] * 4 + ["val"] * 3


def test_manifest_gives_its_training_and_validation_images(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    splits = ["train", "test", "val", "predict", "train"]
    rows = [(f"image_{i:02}.png", "image_00.png", "Text.", s) for i, s in enumerate(splits)]
    manifest = tmp_path / "clinic.csv"
    pd.DataFrame(rows, columns=["image", "mask", "text", "split"]).to_csv(manifest, index=False)
    samples = listed(Source(str(manifest)))
    assert names(samples, "train") == ["image_00", "image_04"]
    assert names(samples, "val") == ["image_02"]
    assert len(samples) == 3


def test_test_images_of_protocols_are_left_out_of_folders_and_trees(
    make_tree: TreeMaker, tmp_path: Path
) -> None:
    protocols = {name: read_protocol(name) for name in ("monuseg_0", "mosmed_plus_mixed")}
    tested = [table.loc[table["split"] == "test", "name"].iloc[0] for table in protocols.values()]
    folder = write_images(tmp_path / "photos", 12)
    for name, old in zip(tested, ("image_00", "image_05"), strict=True):  # one would be held out
        (folder / f"{old}.png").rename(folder / f"{name}.png")
    plain = listed(Source(str(folder)))
    assert set(tested) <= set(names(plain, "train") + names(plain, "val"))
    samples = listed(Source(str(folder), protocols=list(protocols)))
    assert len(samples) == 10
    assert not set(tested) & set(names(samples, "train") + names(samples, "val"))
    one = listed(Source(str(folder), protocols=["monuseg_0"]))
    assert set(tested) & set(names(one, "train") + names(one, "val")) == {tested[1]}

    root = make_tree(tmp_path / "tree", counts=(3, 2, 1))
    train = root / "Train_Folder"
    for path in (train / "img" / "train_1.png", train / "labelcol" / "train_1.png"):
        path.rename(path.with_name(f"{tested[0]}.png"))
    reports = train / "Train_text.csv"
    reports.write_text(reports.read_text().replace("train_1", tested[0]))
    assert tested[0] in names(listed(Source(str(root))), "train")
    assert names(listed(Source(str(root), protocols=["monuseg_0"])), "train") == [
        "train_0",
        "train_2",
    ]


def test_relative_sources_are_looked_up_under_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "root" / "photos", 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path / "root"))
    assert len(listed(Source("photos"))) == 10
    write_images(tmp_path / "photos", 11)
    assert len(listed(Source("photos"))) == 11  # where one stands goes first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": []}, "sources is empty; name at least one folder, tree or manifest"),
        (
            {"crops": [(32, 2), (64, 1)], "sides": (16, 48)},
            r"sides=\[16, 48\] .*\[64, 1\]\] do not",
        ),
        ({"sides": (448, 160)}, r"sides=\[448, 160\].*least side <= greatest side"),
        ({"sides": (0, 448)}, r"sides=\[0, 448\].*0 < least side"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"sources": [Source("photos")]} | options
    with pytest.raises(ConfigError, match=message):
        ImagePool(**settings)


def test_sources_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected a folder .* found nothing.*DATA_ROOT"):
        listed(Source("nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected images to learn from, found none"):
        listed(Source(str(tmp_path / "empty")))


def test_nothing_to_measure_on_is_an_error(tmp_path: Path) -> None:
    few = Source(str(write_images(tmp_path / "few", 9)))
    with pytest.raises(DataError, match=r"few: expected held-out images .* at least 10 images"):
        listed(few)
    many = Source(str(write_images(tmp_path / "many", 10)))
    with pytest.raises(DataError, match="expected held-out images"):
        listed(many, held_out=0)
    assert names(listed(few, many), "val") == ["image_00"]  # those of one source will do


def sampler(seed: int = 0, batches: int = 40, epoch: int = 0) -> CropSampler:
    made = CropSampler([np.arange(2), np.arange(2, 1002)], [(16, 6), (24, 3)], batches, seed)
    made.set_epoch(epoch)
    return made


def test_seed_and_epoch_decide_all_draws() -> None:
    drawn = list(sampler())
    assert list(sampler()) == drawn
    made = sampler(epoch=3)
    assert list(made) == list(made)
    made.set_epoch(0)
    assert list(made) == drawn
    assert list(sampler(seed=1)) != drawn
    assert list(sampler(epoch=1)) != drawn
    assert list(sampler(batches=7)) == drawn[:7]
    assert len(sampler()) == len(drawn) == 40
    seeds = [crop.seed for batch in drawn for crop in batch]
    assert len(set(seeds)) == len(seeds)


def test_sources_are_drawn_from_equally_often_and_crops_too() -> None:
    batches = list(sampler(batches=1000))
    assert {(batch[0].side, len(batch)) for batch in batches} == {(16, 6), (24, 3)}
    assert all(len({crop.side for crop in batch}) == 1 for batch in batches)
    assert sum(batch[0].side == 16 for batch in batches) == pytest.approx(500, abs=64)
    drawn = Counter(crop.index for batch in batches for crop in batch)
    total = sum(drawn.values())
    assert drawn[0] == pytest.approx(total / 4, rel=0.1)
    assert drawn[1] == pytest.approx(total / 4, rel=0.1)
    assert len(drawn) > 850  # of 1002: the large source is used up, not a few images of it
    assert max(count for index, count in drawn.items() if index > 1) < 12


@pytest.fixture
def gradient(tmp_path: Path) -> Path:
    """Red counts rows, green counts columns, so that a crop tells where it was cut."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "gradient.png")
    return tmp_path / "gradient.png"


def crops(
    image: Path, sides: tuple[int, int], side: int, turns: bool = False
) -> NDArray[np.float64]:
    """200 crops in pixel values, [N, 3, side, side]."""
    dataset = CropDataset(table_of(image, turns=turns), sides, memory=1.0)
    batch = dataset[[Crop(0, side, seed) for seed in range(200)]]
    assert batch.dtype == torch.float32
    return (batch.double().numpy() + 1) * 127.5


def slopes(cut: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change of each colour a pixel of the crop, downwards and rightwards: [N, 2, 3]."""
    place = np.arange(cut.shape[-1]) - (cut.shape[-1] - 1) / 2
    down = (cut.mean(axis=3) * place).sum(axis=2)
    right = (cut.mean(axis=2) * place).sum(axis=2)
    return np.asarray(np.stack([down, right], axis=1) / (place**2).sum())


def test_zoom_is_log_uniform_in_the_range_of_sides(gradient: Path) -> None:
    cut = crops(gradient, (64, 160), 32)
    slope = slopes(cut)
    rows, columns = slope[:, 0, 0], np.abs(slope[:, 1, 1])
    np.testing.assert_allclose(columns, rows, rtol=0.02)  # both sides alike: a square stays one
    np.testing.assert_allclose(slope[:, [0, 1], [1, 0]], 0, atol=1e-6)
    shorter = HEIGHT / rows  # of the image that this crop is a piece of
    assert 63 < shorter.min() < 66
    assert 155 < shorter.max() < 164
    exponent = np.log(shorter / 64) / np.log(160 / 64)
    for quarter in (0.25, 0.5, 0.75):
        assert (exponent < quarter).mean() == pytest.approx(quarter, abs=0.09)
    first, last = cut[:, 0].min(axis=(1, 2)), cut[:, 0].max(axis=(1, 2))
    assert first.min() < 5
    assert last.max() > HEIGHT - 6
    assert cut[:, 1].min() < 5
    assert cut[:, 1].max() > WIDTH - 6
    assert np.corrcoef(first, shorter)[0, 1] < 0.9  # where it was cut is a draw of its own


def test_crop_is_never_larger_than_its_image(gradient: Path) -> None:
    shorter = HEIGHT / slopes(crops(gradient, (16, 64), 48))[:, 0, 0]
    assert 47.5 < shorter.min() < 49
    assert 62 < shorter.max() < 65
    middle = np.sqrt(48 * 64)  # still log-uniform from there on
    assert (shorter < middle).mean() == pytest.approx(0.5, abs=0.11)
    whole = crops(gradient, (48, 48), 48)[:, 0]
    np.testing.assert_allclose(whole[:, 0].mean(axis=1), HEIGHT / 48 / 2 - 0.5, atol=0.6)
    np.testing.assert_allclose(whole[:, -1].mean(axis=1), HEIGHT * 47.5 / 48 - 0.5, atol=0.6)


def test_upright_images_are_flipped_left_to_right_alone(gradient: Path) -> None:
    slope = slopes(crops(gradient, (64, 160), 32))
    assert (slope[:, 0, 0] > 0).all()  # rows always count downwards
    assert (slope[:, 1, 1] > 0).mean() == pytest.approx(0.5, abs=0.15)
    np.testing.assert_allclose(slope[:, 0, 1], 0, atol=1e-6)


def test_images_without_up_and_down_are_flipped_and_turned(gradient: Path) -> None:
    slope = slopes(crops(gradient, (64, 160), 32, turns=True))
    seen = Counter(tuple(np.sign(np.round(one[:, :2], 3)).ravel()) for one in slope)
    straight = {(a, 0.0, 0.0, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)}
    turned = {(0.0, a, b, 0.0) for a in (-1.0, 1.0) for b in (-1.0, 1.0)}
    assert set(seen) == straight | turned
    assert min(seen.values()) > 8


def test_seed_decides_a_crop_and_values_are_in_range(tmp_path: Path) -> None:
    pixels = np.zeros((60, 50, 3), np.uint8)
    pixels[:, 25:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    image = tmp_path / "half.png"
    dataset = CropDataset(table_of(image), (32, 64), memory=0.0)
    batch = dataset[[Crop(0, 32, seed) for seed in (1, 2, 1)]]
    assert batch.shape == (3, 3, 32, 32)
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(dataset[[Crop(0, 32, 1)]][0], batch[0])
    assert (batch.min().item(), batch.max().item()) == (-1, 1)


@pytest.mark.parametrize(("images", "kept"), [(0, []), (1, [0]), (2, [0, 1])])
def test_no_more_is_kept_than_memory_allows(images: int, kept: list[int], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3, size=40)
    paths = sorted(folder.iterdir())
    dataset = CropDataset(table_of(*paths), (16, 40), memory=(images * 40 * 40 * 3 + 1) / 2**30)
    before = [dataset[[Crop(index, 16, 0)]] for index in range(3)]
    for path in paths:
        path.unlink()
    for index in range(3):
        if index in kept:
            assert torch.equal(dataset[[Crop(index, 16, 0)]], before[index])
        else:
            with pytest.raises(DataError, match=f"image_{index:02}.png"):
                dataset[[Crop(index, 16, 0)]]


def test_images_that_change_during_a_run_end_it(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "photos", 1, size=40).iterdir()
    dataset = CropDataset(table_of(path), (16, 40), memory=0)
    dataset[[Crop(0, 16, 0)]]
    os.utime(path, (0, 0))
    with pytest.raises(DataError, match=r"image_00\.png has changed since the run began"):
        dataset[[Crop(0, 16, 0)]]


def test_held_out_images_that_change_during_a_run_end_it(tmp_path: Path) -> None:
    path, other = sorted(write_images(tmp_path / "photos", 2, size=40).iterdir())
    dataset = WholeDataset(table_of(path, other), 16)
    dataset[0]
    os.utime(path, (0, 0))
    assert dataset[1].shape == (3, 16, 16)
    with pytest.raises(DataError, match=r"image_00\.png has changed since the run began"):
        dataset[0]


@pytest.mark.parametrize("seeded", [False, True])
def test_loader_processes_ignore_ctrl_c_and_are_seeded_by_lightning(
    seeded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_SEED_WORKERS", str(int(seeded)))
    monkeypatch.setattr(CropDataset, "__getitem__", worker_state)
    monkeypatch.setattr(WholeDataset, "__getitem__", worker_state)
    pool = pool_of(write_images(tmp_path / "photos", 20), workers=2)
    pool.setup("fit")
    assert_start_of_workers([pool.train_dataloader(), pool.val_dataloader()], seeded)


def test_held_out_images_are_whole(gradient: Path) -> None:
    dataset = WholeDataset(table_of(gradient), 50)
    assert len(dataset) == 1
    assert dataset[0].shape == (3, 50, 50)
    pixels = (dataset[0].numpy() + 1) * 127.5
    centers = (np.arange(50) + 0.5) / 50
    np.testing.assert_allclose(pixels[0, :, 7], HEIGHT * centers - 0.5, atol=0.51)
    np.testing.assert_allclose(pixels[1, 7], WIDTH * centers - 0.5, atol=0.51)


class Recorder(lightning.LightningModule):
    """Keeps what a training hands it and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def training_step(self, image: Tensor, _batch_index: int) -> Tensor:
        self.seen.append(image)
        return self.weight * 1

    def validation_step(self, image: Tensor, _batch_index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def pool_of(folder: Path, workers: int = 0) -> ImagePool:
    return ImagePool(
        [Source(str(folder))],
        crops=[(16, 3), (24, 1)],
        sides=(16, 40),
        batches=4,
        held_out=2,
        held_out_side=24,
        num_workers=workers,
    )


def test_training_draws_by_epoch_and_run_seed_with_any_number_of_workers(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 20)

    def drawn(seed: int, workers: int) -> list[Tensor]:
        torch.manual_seed(seed)
        recorder = Recorder()
        options = {"max_epochs": 2, "limit_val_batches": 0}
        quiet_trainer(tmp_path, **options).fit(recorder, datamodule=pool_of(folder, workers))
        return recorder.seen

    pool = pool_of(folder)
    pool.setup("fit")
    rows = pool.samples[pool.samples["split"] == "train"].reset_index(drop=True)
    dataset = CropDataset(rows, (16, 40), memory=1.0)
    wanted = []
    for epoch in range(2):
        expected = CropSampler([np.arange(18)], [(16, 3), (24, 1)], 4, seed=5)
        expected.set_epoch(epoch)
        wanted += [dataset[batch] for batch in expected]
    for workers in (0, 1):
        found = drawn(5, workers)
        assert len(found) == len(wanted) == 8
        assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    other = drawn(6, 0)
    assert not all(torch.equal(one, two) for one, two in zip(other, wanted, strict=True))


def test_small_source_is_learnt_from_as_often_as_a_large_one(tmp_path: Path) -> None:
    for source, count, colour in (("few", 10, 255), ("many", 200, 0)):
        for path in sorted(write_images(tmp_path / source, count, size=8).iterdir()):
            Image.new("RGB", (8, 8), (colour,) * 3).save(path)
    sources = [Source(str(tmp_path / name)) for name in ("few", "many")]
    pool = ImagePool(sources, crops=[(8, 20)], sides=(8, 8), batches=20)
    torch.manual_seed(0)
    pool.setup("fit")
    levels = torch.cat(list(pool.train_dataloader())).mean(dim=(1, 2, 3))
    assert set(levels.tolist()) == {-1, 1}
    assert (levels == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_validation_gives_the_held_out_images_in_order(tmp_path: Path) -> None:
    pool = pool_of(write_images(tmp_path / "photos", 20))
    pool.setup("fit")
    (batch,) = pool.val_dataloader()
    paths = pool.samples.loc[pool.samples["split"] == "val", "image"].tolist()
    assert batch.shape == (2, 3, 24, 24)
    for image, path in zip(batch, paths, strict=True):
        level = read_image(Path(path)).mean() / 127.5 - 1
        assert image.mean().item() == pytest.approx(level, abs=0.02)


def test_hash_is_of_the_pixels_whatever_the_file_format(tmp_path: Path) -> None:
    tiny = np.array([[[0, 128, 255], [1, 2, 3]]], np.uint8)
    Image.fromarray(tiny).save(tmp_path / "tiny.png")
    # What `printf '1x2\000\200\377\001\002\003' | sha256sum` prints.
    printed = "a0d63c58b23cd76544e3ad6da9948e24831148ac41d181e40e28a558822dca28"
    assert pixel_hash(tmp_path / "tiny.png") == printed
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for suffix in ("png", "tiff", "bmp"):
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "transposed.png")
    Image.fromarray(pixels.reshape(9, 6, 3)).save(tmp_path / "reshaped.png")  # the same bytes
    hashes = {path.name: pixel_hash(path) for path in tmp_path.iterdir()}
    assert hashes["a.png"] == hashes["a.tiff"] == hashes["a.bmp"]
    assert len(set(hashes.values())) == 4
