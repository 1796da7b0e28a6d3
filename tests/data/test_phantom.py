"""Phantom data are drawn once, whole, and alike everywhere."""

from pathlib import Path

import pytest
import torch

from lcpdn_pl.data import Phantom, phantom
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.phantoms import draw_phantom


def _files(root: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_drawn_once_and_alike_in_another_root(tmp_path: Path) -> None:
    data, other = (Phantom(str(tmp_path / n), counts=(3, 1, 2), image_size=32) for n in "ab")
    data.prepare_data()
    before = {path: path.stat().st_mtime_ns for path in data.root.rglob("*")}
    data.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in data.root.rglob("*")} == before
    assert [path.name for path in (tmp_path / "a").iterdir()] == [data.root.name]
    other.prepare_data()
    assert _files(other.root) == _files(data.root)
    assert len(_files(data.root)) == 2 * 6 + 3


def test_counts_and_looks_in_turn(tmp_path: Path) -> None:
    data = Phantom(str(tmp_path), looks=("ct", "nuclei"), counts=(3, 2, 1), image_size=32)
    data.prepare_data()
    assert read_lvit(data.root)["name"].tolist() == [
        "train_0000_ct",
        "train_0001_nuclei",
        "train_0002_ct",
        "val_0000_ct",
        "val_0001_nuclei",
        "test_0000_ct",
    ]


def test_drawing_seed_changes_the_images(tmp_path: Path) -> None:
    images = []
    for seed in (0, 1):
        data = Phantom(str(tmp_path), ("ct",), (2, 1, 1), drawing_seed=seed, image_size=32)
        data.prepare_data()
        pictures = {name: c for name, c in _files(data.root).items() if "/img/" in name}
        assert len(set(pictures.values())) == 4
        images.append(set(pictures.values()))
    assert images[0].isdisjoint(images[1])


def test_settings_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Phantom(str(tmp_path), ("xray", "ct"), (7, 5, 6), drawing_seed=9, image_size=48)
    assert data.root == tmp_path / "xray-ct-7-5-6-48px-seed9"
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path / "kept"))
    default = tmp_path / "kept" / "Phantom" / "nuclei-xray-ct-240-30-60-128px-seed0"
    assert Phantom().root == default
    monkeypatch.delenv("LCPDN_DATA_ROOT")
    assert Phantom().root == Path("data", "Phantom", default.name)


def test_nothing_is_left_when_drawing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))

    def fail_late(*arguments: object) -> object:
        if next(calls) == 3:
            raise OSError("disk full")
        return draw_phantom(*arguments)  # type: ignore[arg-type]

    data = Phantom(str(tmp_path / "root"), counts=(2, 1, 1), image_size=32)
    with monkeypatch.context() as patch:
        patch.setattr(phantom, "draw_phantom", fail_late)
        with pytest.raises(OSError, match="disk full"):
            data.prepare_data()
    assert next(calls) == 4  # it failed at the last image, with three written
    assert list((tmp_path / "root").iterdir()) == []
    data.prepare_data()
    assert len(read_lvit(data.root)) == 4


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = (Phantom(str(tmp_path), counts=(1, 1, 1), image_size=32) for _ in range(2))
    draw = Phantom._draw_split

    def slow(self: Phantom, folder: Path, split: int) -> None:
        draw(self, folder, split)
        if self is data and split == 2:
            other.prepare_data()

    monkeypatch.setattr(Phantom, "_draw_split", slow)
    data.prepare_data()
    assert {path.name for path in data.root.iterdir()} == {
        f"{name}_Folder" for name in ("Train", "Val", "Test")
    }
    assert [path.name for path in tmp_path.rglob("tmp*")] == []


def test_loaders(tmp_path: Path) -> None:
    data = Phantom(str(tmp_path), counts=(3, 2, 1), image_size=32, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    train, (val,) = list(data.train_dataloader()), list(data.val_dataloader())
    assert [tuple(batch["image"].shape) for batch in train] == [(2, 3, 32, 32), (1, 3, 32, 32)]
    assert val["name"] == ["val_0000_nuclei", "val_0001_xray"]
    assert val["mask"].dtype == torch.int64
    assert val["mask"].unique().tolist() == [0, 1]
    assert all(text.endswith(".") for text in val["text"])
    (test,) = list(data.test_dataloader())
    assert test["mask"].shape == (1, 32, 32)


def test_others_can_read_a_shared_data_root(tmp_path: Path) -> None:
    data = Phantom(str(tmp_path), counts=(1, 1, 1), image_size=32)
    data.prepare_data()
    assert data.root.stat().st_mode & 0o777 == 0o755
