"""The public data modules: from a folder in LViT's layout to batches."""

import random
import shutil
import signal
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from lcpdn_pl.data import MoNuSeg, MosMedPlus, Phantom, QaTaCOV19
from lcpdn_pl.data.corruptions import corrupt
from lcpdn_pl.data.datamodule import Augment
from lcpdn_pl.data.dataset import SegmentationDataset
from lcpdn_pl.data.images import read_image
from lcpdn_pl.data.public import PublicDataModule
from lcpdn_pl.data.transforms import resize_image, to_tensor
from lcpdn_pl.errors import ConfigError, DataError
from tests.conftest import TreeMaker, interruptible, quiet_trainer, write_images

every_module = pytest.mark.parametrize("module", [MoNuSeg, QaTaCOV19, MosMedPlus])

Module = type[PublicDataModule]


@every_module
def test_batches(module: Module, make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", counts=(5, 2, 3))
    data = module(str(root), "full", image_size=16, batch_size=2)
    data.setup("fit")
    assert data.samples["split"].tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["name"]) for batch in train] == [2, 2, 1]
    assert {name for batch in train for name in batch["name"]} == {f"train_{i}" for i in range(5)}
    assert [batch["name"] for batch in val] == [["val_0", "val_1"]]
    for batch in (*train, *val):
        count = len(batch["name"])
        assert set(batch) == {"image", "mask", "text", "name"}
        assert batch["image"].shape == (count, 3, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert batch["image"].abs().max() <= 1
        assert batch["mask"].shape == (count, 16, 16)
        assert batch["mask"].dtype == torch.int64
        assert batch["mask"].unique().tolist() == [0, 1]
        for text, mask in zip(batch["text"], batch["mask"], strict=True):
            assert ("left" in text) == bool(mask[:, :8].sum() > mask[:, 8:].sum())


@every_module
def test_test_images_come_one_by_one(module: Module, make_tree: TreeMaker, tmp_path: Path) -> None:
    data = module(str(make_tree(tmp_path / "tree")), "full", image_size=16, batch_size=2)
    data.setup("test")
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert [batch["name"] for batch in batches] == [["test_0"], ["test_1"], ["test_2"]]
        assert {batch["image"].shape for batch in batches} == {(1, 3, 16, 16)}
        assert {batch["mask"].shape for batch in batches} == {(1, 40, 40)}


@every_module
def test_root(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LCPDN_DATA_ROOT", raising=False)
    assert module().root == Path("data", module.folder)
    monkeypatch.setenv("LCPDN_DATA_ROOT", "elsewhere")
    assert module().root == Path("elsewhere", module.folder)
    assert module("here").root == Path("here")


def test_folder_under_the_data_root_is_read(
    make_tree: TreeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "QaTa-COV19", mask_prefix="mask_")
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path))
    data = QaTaCOV19(protocol="full")
    data.setup("fit")
    assert len(data.samples) == 9
    with pytest.raises(DataError, match="no such folder"):
        MoNuSeg(protocol="full").setup("fit")


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (MoNuSeg, "paper, draw_1, draw_2, draw_3, draw_4, full"),
        (QaTaCOV19, "paper, full"),
        (MosMedPlus, "paper, by_volume, full"),
    ],
)
def test_unknown_protocol_lists_the_known(module: Module, known: str) -> None:
    with pytest.raises(ConfigError, match=f"no protocol 'Paper'; use one of {known}\\."):
        module(protocol="Paper")


@every_module
def test_protocol_needs_its_images(module: Module, make_tree: TreeMaker, tmp_path: Path) -> None:
    data = module(str(make_tree(tmp_path / "tree")))
    with pytest.raises(DataError, match="protocol paper names"):
        data.setup("fit")


def test_reports_of_the_test_split(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(2, 1, 7)))
    right = ["Report 0.", *["Often."] * 5, "Report 6."]
    rows = [f"test_{index}.png,{text}" for index, text in enumerate(right)]
    table = Path(root, "Test_Folder", "Test_text.csv")
    table.write_text("\n".join(["Image,Description", *rows]))

    def texts(data: MoNuSeg) -> list[str]:
        data.setup("test")
        assert next(iter(data.val_dataloader()))["text"] == ["One round nuclei, right lung."]
        return [batch["text"][0] for batch in data.test_dataloader()]

    assert texts(MoNuSeg(root, "full", 16)) == right
    assert texts(MoNuSeg(root, "full", 16, test_reports="empty")) == [""] * 7
    sides = [*["Upper left."] * 5, "All left and all right.", "Round nuclei."]
    table.write_text(
        "Image,Description\n" + "\n".join(f"test_{i}.png,{text}" for i, text in enumerate(sides))
    )
    with pytest.warns(UserWarning, match="2 of the 7 test reports have no opposite"):
        opposite = texts(MoNuSeg(root, "full", 16, test_reports="contradicting"))
    assert opposite == [*["Lower right."] * 5, *sides[5:]]
    table.write_text("\n".join(["Image,Description", *rows]))
    orders = []
    for seed in range(4):
        torch.manual_seed(seed)
        shuffled = texts(MoNuSeg(root, "full", 16, test_reports="shuffled"))
        assert set(shuffled) <= set(right)
        assert all(one != two for one, two in zip(shuffled, right, strict=True))
        orders.append(tuple(shuffled))
    assert len(set(orders)) > 1
    torch.manual_seed(0)
    assert tuple(texts(MoNuSeg(root, "full", 16, test_reports="shuffled"))) == orders[0]
    table.write_text("Image,Description\n" + "\n".join(f"test_{i}.png,Often." for i in range(7)))
    with pytest.raises(DataError, match=r"all 7 test images have the same report, 'Often\.'"):
        texts(MoNuSeg(root, "full", 16, test_reports="shuffled"))


def test_all_splits_are_checked_whatever_the_stage(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree")
    image = Path("img", "train_1.png")
    shutil.copy(root / "Train_Folder" / image, root / "Test_Folder" / "img" / "test_1.png")
    for stage in ("fit", "validate", "test", "predict"):
        with pytest.raises(DataError, match="in two splits with the same content"):
            MoNuSeg(str(root), "full").setup(stage)


@pytest.mark.parametrize("counts", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_empty_split_is_an_error(
    counts: tuple[int, int, int], make_tree: TreeMaker, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "tree", counts=counts)
    for folder in root.iterdir():  # a table of no rows has no header either
        if not list((folder / "img").iterdir()):
            (folder / f"{folder.name.split('_')[0]}_text.csv").write_text("Image,Description\n")
    with pytest.raises(DataError, match="1 folders without an image"):
        MosMedPlus(str(root), "full").setup("fit")


@every_module
def test_foreground_values(module: Module, make_tree: TreeMaker, tmp_path: Path) -> None:
    data = module(str(make_tree(tmp_path / "tree", values=(0, 127))), "full", image_size=16)
    data.setup("fit")
    if module is MosMedPlus:
        shares = [batch["mask"].float().mean().item() for batch in data.val_dataloader()]
        assert all(0.05 < share < 0.3 for share in shares)
    else:
        with pytest.raises(DataError, match="127"):
            next(iter(data.val_dataloader()))


def test_both_lesion_classes_are_one_foreground(make_tree: TreeMaker, tmp_path: Path) -> None:
    data = MosMedPlus(str(make_tree(tmp_path / "tree", values=(127, 255))), "full", image_size=16)
    data.setup("test")
    assert all(batch["mask"].eq(1).all() for batch in data.test_dataloader())


def test_training_follows_the_run_seed(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(8, 1, 1)))

    def epoch(seed: int, augment: Augment = "full") -> tuple[list[str], torch.Tensor]:
        torch.manual_seed(seed)
        data = MoNuSeg(root, "full", image_size=16, augment=augment)
        data.setup("fit")
        torch.rand(3)  # what else was drawn makes no difference
        batches = list(data.train_dataloader())
        images = torch.cat([batch["image"] for batch in batches])
        return [batch["name"][0] for batch in batches], images

    names, images = epoch(1)
    again, same = epoch(1)
    assert names == again != sorted(names)
    assert torch.equal(images, same)
    assert epoch(2)[0] != names
    plain = epoch(1, augment="none")
    assert plain[0] == names
    assert not torch.equal(plain[1], images)


def worker_state(*_: object) -> torch.Tensor:
    """In place of a sample: whether Ctrl-C is ignored, and a draw of each kind."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    draws = (torch.rand(()).item(), np.random.rand(), random.random())  # noqa: NPY002 - seeded too
    return torch.tensor([ignored, *draws], dtype=torch.float64)


def assert_start_of_workers(loaders: Iterable[DataLoader[Any]], seeded: bool) -> None:
    """Loader processes are seeded as if the loader had left that to Lightning."""
    for loader in loaders:
        plain: DataLoader[Any] = DataLoader(
            loader.dataset,
            loader.batch_size,
            sampler=loader.sampler,
            num_workers=2,
            worker_init_fn=partial(pl_worker_init_function, rank=0) if seeded else None,
        )
        with interruptible():
            torch.manual_seed(3)
            found = torch.cat([batch.view(-1, 4) for batch in loader])
            torch.manual_seed(3)
            wanted = torch.cat([batch.view(-1, 4) for batch in plain])
        assert found[:, 0].all()
        assert not wanted[:, 0].any()
        columns = slice(1, 4) if seeded else slice(1, 3)
        assert torch.equal(found[:, columns], wanted[:, columns])


@pytest.mark.parametrize("seeded", [False, True])
def test_loader_processes_ignore_ctrl_c_and_are_seeded_by_lightning(
    seeded: bool, make_tree: TreeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_SEED_WORKERS", str(int(seeded)))
    monkeypatch.setattr(SegmentationDataset, "__getitem__", worker_state)
    root = make_tree(tmp_path / "tree", counts=(4, 3, 2))
    data = MoNuSeg(str(root), "full", image_size=16, batch_size=2, num_workers=2)
    data.setup("fit")
    loaders = [data.train_dataloader(), data.val_dataloader()]
    loaders += [data.test_dataloader(), data.predict_dataloader()]
    assert_start_of_workers(loaders, seeded)


def test_dihedral_augmentation_makes_images_that_come_again(
    make_tree: TreeMaker, tmp_path: Path
) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(2, 1, 1)))

    def epochs(augment: Augment) -> dict[str, set[bytes]]:
        data = MoNuSeg(root, "full", image_size=16, augment=augment)
        data.setup("fit")
        loader = data.train_dataloader()
        seen: dict[str, set[bytes]] = {"train_0": set(), "train_1": set()}
        for epoch in range(40):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for batch in loader:
                seen[batch["name"][0]].add(batch["image"].numpy().tobytes())
        return seen

    # The reports name a lung, whose images are mirrored only.
    assert [len(images) for images in epochs("dihedral").values()] == [2, 2]
    assert all(len(images) > 20 for images in epochs("full").values())
    assert [len(images) for images in epochs("none").values()] == [1, 1]


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol that names two of the training images, one of which validates."""
    table = pd.DataFrame(
        [("train_0", "train"), ("train_3", "val"), ("test_0", "test")], columns=["name", "split"]
    )
    monkeypatch.setattr("lcpdn_pl.data.public.read_protocol", lambda _name: table)


def plain_image(root: Path, split: str, name: str) -> torch.Tensor:
    """An image as an unaugmented run of 16 pixels sees it."""
    return to_tensor(resize_image(read_image(root / f"{split}_Folder" / "img" / name), 16))


@pytest.mark.usefixtures("few_labels")
def test_the_rest_of_the_training_images_comes_without_masks(
    make_tree: TreeMaker, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "tree", counts=(5, 2, 3))
    data = MoNuSeg(str(root), image_size=16, augment="none", unlabelled="rest")
    data.setup("fit")
    pool = data.samples[data.samples["split"] == "unlabelled"]
    assert pool["name"].tolist() == ["train_1", "train_2", "train_4"]
    assert pool["mask"].tolist() == [""] * 3
    assert data.describe() == (
        "monuseg: 1 train, 1 val, 1 test, 3 unlabelled (rest of the training images)"
    )
    rest = [plain_image(root, "Train", f"train_{index}.png") for index in (1, 2, 4)]
    loader = data.train_dataloader()
    drawn = set()
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        assert set(batch) == {"image", "mask", "text", "name", "unlabelled"}
        assert batch["name"] == ["train_0"]
        assert torch.equal(batch["image"][0], plain_image(root, "Train", "train_0.png"))
        drawn |= {k for k in range(3) if torch.equal(batch["unlabelled"][0], rest[k])}
    assert drawn == {0, 1, 2}
    assert all("unlabelled" not in batch for batch in data.val_dataloader())


@pytest.mark.usefixtures("few_labels")
@pytest.mark.parametrize(
    ("count", "train", "rest"),
    [
        (None, ["train_0"], ["train_1", "train_2", "train_4"]),
        (1, ["train_0"], ["train_1", "train_2", "train_4"]),
        (3, ["train_0", "train_1", "train_2"], ["train_4"]),
        (4, ["train_0", "train_1", "train_2", "train_4"], []),
    ],
)
def test_training_images_are_the_protocol_s_and_then_of_the_rest(
    count: int | None, train: list[str], rest: list[str], make_tree: TreeMaker, tmp_path: Path
) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(5, 2, 3)))
    data = MoNuSeg(root, image_size=16, train_images=count)
    data.setup("fit")
    splits = {name: group["name"].tolist() for name, group in data.samples.groupby("split")}
    assert splits == {"train": train, "val": ["train_3"], "test": ["test_0"]}
    assert data.read_rest()["name"].tolist() == rest


@pytest.mark.usefixtures("few_labels")
@pytest.mark.parametrize("count", [0, 5])
def test_more_training_images_than_there_are(
    count: int, make_tree: TreeMaker, tmp_path: Path
) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(5, 2, 3)))
    with pytest.raises(ConfigError, match=f"train_images is {count}: .* has 4 training images"):
        MoNuSeg(root, train_images=count).setup("fit")
    full = MoNuSeg(root, "full", train_images=2)
    full.setup("fit")
    assert full.samples["name"].tolist()[:3] == ["train_0", "train_1", "val_0"]


def test_test_images_alone_are_made_worse(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree"))
    plain = MoNuSeg(root, "full", 16)
    worse = MoNuSeg(root, "full", 16, test_corruption="noise", test_strength=5)
    for data in (plain, worse):
        data.setup("fit")
    for one, other in zip(plain.val_dataloader(), worse.val_dataloader(), strict=True):
        assert torch.equal(one["image"], other["image"])
    for one, other in zip(plain.test_dataloader(), worse.test_dataloader(), strict=True):
        image = resize_image(read_image(Path(root, "Test_Folder/img", f"{one['name'][0]}.png")), 16)
        assert torch.equal(one["image"][0], to_tensor(image))
        noisy = corrupt(image, "noise", 5, one["name"][0])
        assert torch.equal(other["image"][0], to_tensor(noisy))


@pytest.mark.usefixtures("few_labels")
def test_nothing_else_changes_with_a_pool(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree", counts=(5, 2, 3)))

    def first(unlabelled: str | None) -> dict[str, Any]:
        torch.manual_seed(3)
        data = MoNuSeg(root, image_size=16, unlabelled=unlabelled)
        data.setup("fit")
        batch: dict[str, Any] = next(iter(data.train_dataloader()))
        return batch

    plain, with_pool, again = first(None), first("rest"), first("rest")
    companion = with_pool.pop("unlabelled")
    assert companion.shape == (1, 3, 16, 16)
    assert torch.equal(companion, again["unlabelled"])
    assert plain.keys() == with_pool.keys()
    assert torch.equal(plain["image"], with_pool["image"])
    assert torch.equal(plain["mask"], with_pool["mask"])
    data = MoNuSeg(root, image_size=16, unlabelled=str(tmp_path / "gone"))
    data.setup("test")  # needs no pool
    assert data.describe() == "monuseg: 1 train, 1 val, 1 test"


def test_images_of_a_folder_come_without_masks(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", counts=(3, 1, 1))
    folder = write_images(tmp_path / "pool", 1)
    data = MoNuSeg(str(root), "full", image_size=16, batch_size=3, unlabelled=str(folder))
    data.setup("fit")
    assert data.describe() == f"monuseg: 3 train, 1 val, 1 test, 1 unlabelled ({folder})"
    (batch,) = data.train_dataloader()
    assert batch["unlabelled"].shape == (3, 3, 16, 16)
    # One image, augmented with draws of their own: no two are alike.
    flat = batch["unlabelled"].flatten(1)
    assert all((flat[a] - flat[b]).abs().max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))
    shutil.copy(root / "Test_Folder" / "img" / "test_0.png", folder)
    with pytest.raises(DataError, match=r"in two splits.*test_0\.png \(test\) and .*unlabelled"):
        MoNuSeg(str(root), "full", unlabelled=str(folder)).setup("fit")


def test_a_pool_without_images_is_an_error(make_tree: TreeMaker, tmp_path: Path) -> None:
    root = str(make_tree(tmp_path / "tree"))
    with pytest.raises(ConfigError, match="monuseg has no training images besides those it trains"):
        MoNuSeg(root, "full", unlabelled="rest").setup("fit")
    phantom = Phantom(str(tmp_path / "drawn"), counts=(1, 1, 1), image_size=32, unlabelled="rest")
    phantom.prepare_data()
    with pytest.raises(ConfigError, match="phantom has no training images besides those"):
        phantom.setup("fit")
    with pytest.raises(DataError, match=r"gone: expected a folder with images .* found none"):
        MoNuSeg(root, "full", unlabelled=str(tmp_path / "gone")).setup("fit")


@pytest.mark.parametrize(
    ("stage", "split", "count"), [("val", "val", 2), ("test", "test", 3), ("predict", "test", 3)]
)
def test_every_process_needs_an_image(
    stage: str, split: str, count: int, make_tree: TreeMaker, tmp_path: Path
) -> None:
    module = MosMedPlus(str(make_tree(tmp_path / "tree")), protocol="full", image_size=32)
    module.setup("fit")
    trainer = quiet_trainer(tmp_path)
    module.trainer = trainer
    loader = getattr(module, f"{stage}_dataloader")
    with pytest.MonkeyPatch.context() as several:
        several.setattr(type(trainer), "world_size", count)
        assert len(loader()) == 1
        several.setattr(type(trainer), "world_size", count + 1)
        with pytest.raises(ConfigError, match=rf"{count} {split} images for {count + 1} processes"):
            loader()
