"""Entries appear whole, torn ones are computed again, the limit holds."""

import errno
import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.errors import ConfigError


def maps(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(c, s, s, generator=generator) for c, s in ((6, 4), (3, 8))]


def key(name: str) -> str:
    return name.encode().hex().rjust(32, "0")


def entry(folder: Path, name: str) -> Path:
    return folder / f"{key(name)}.safetensors"


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def assert_holds(store: FeatureStore, name: str, expected: list[Tensor]) -> None:
    found = store.read(key(name))
    assert found is not None
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_round_trip_counts_hits_and_misses(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "new" / "folder")
    assert store.read(key("a")) is None
    store.write(key("a"), maps())
    assert_holds(store, "a", maps())
    assert_holds(FeatureStore(store.folder), "a", maps())
    assert (store.hits, store.misses) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    store = FeatureStore(tmp_path)
    half = [m.to(dtype) for m in maps()]
    store.write(key("a"), half)
    assert_holds(store, "a", half)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped bit", "zeros", "header"])
def test_torn_entries_count_as_none(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    FeatureStore(tmp_path).write(key("a"), maps())
    path = entry(tmp_path, "a")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-100]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped bit":
        content[-10] ^= 1
    elif damage == "zeros":
        content[-400:] = bytes(400)
    else:
        content[:8] = (2**40).to_bytes(8, "little")
    path.write_bytes(content)
    store = FeatureStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert store.read(key("a")) is None
    assert "torn" in caplog.text
    store.write(key("a"), maps())
    assert_holds(store, "a", maps())


def test_interrupted_write_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        store.write(key("a"), maps())
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert store.read(key("a")) is None


def test_entries_of_another_user_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureStore(tmp_path).write(key("a"), maps())
    monkeypatch.setattr(os, "utime", denied)
    store = FeatureStore(tmp_path)
    assert_holds(store, "a", maps())
    assert (store.hits, store.misses) == (1, 0)
    assert_holds(FeatureStore(tmp_path), "a", maps())


def test_torn_entries_in_a_folder_of_another_user_count_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry(tmp_path, "a").write_bytes(b"torn")
    monkeypatch.setattr(Path, "unlink", denied)
    store = FeatureStore(tmp_path)
    assert store.read(key("a")) is None
    assert store.misses == 1


def test_old_entries_of_another_user_take_their_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureStore(tmp_path).write(key("old"), maps())
    os.utime(entry(tmp_path, "old"), (0, 0))
    size = entry(tmp_path, "old").stat().st_size
    monkeypatch.setattr(Path, "unlink", denied)
    store = FeatureStore(tmp_path, limit=1.5 * size / 2**30)
    store.write(key("a"), maps())
    assert store.read(key("a")) is None
    assert_holds(store, "old", maps())


def test_a_folder_is_made_for_the_first_entry(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "new")
    assert store.read(key("a")) is None
    assert not store.folder.exists()
    store.write(key("a"), maps())
    assert_holds(store, "a", maps())


def test_a_folder_that_cannot_be_made_is_named_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file" / "store")
    assert store.read(key("a")) is None
    with pytest.raises(ConfigError, match=r"file/store: expected a folder .* feature_cache"):
        store.write(key("a"), maps())


def test_limit_spares_entries_of_this_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FeatureStore(tmp_path).write(key("old"), maps(0))
    size = entry(tmp_path, "old").stat().st_size
    os.utime(entry(tmp_path, "old"), (0, 0))
    store = FeatureStore(tmp_path, limit=2.5 * size / 2**30)
    for seed, name in enumerate("abcd", start=1):
        with caplog.at_level(logging.WARNING):
            store.write(key(name), maps(seed))
    assert store.read(key("old")) is None
    assert_holds(store, "a", maps(1))
    assert_holds(store, "b", maps(2))
    assert store.read(key("c")) is None
    assert store.read(key("d")) is None
    assert caplog.text.count("is full") == 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= store.limit


def test_files_of_killed_writers_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: halves.extend(tmp_path.glob(".*.partial")))
        for name in "ab":
            FeatureStore(tmp_path).write(key(name), maps())
    killed, writing = halves
    for path in halves:
        path.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(killed, (long_ago, long_ago))
    FeatureStore(tmp_path).write(key("a"), maps())
    assert not killed.exists()
    assert writing.exists()


def test_files_that_are_no_entries_are_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("thesis.txt", ".a.1.partial", "model.safetensors")]
    others.append(tmp_path / f"{'a' * 31}.safetensors")
    for path in others:
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    (tmp_path / "folder").mkdir()
    store = FeatureStore(tmp_path, limit=4000 / 2**30)
    store.write(key("a"), maps())
    assert_holds(store, "a", maps())  # what is not its own takes none of its room
    store.write(key("b"), [torch.zeros(2000)])
    assert all(path.stat().st_size == 5000 for path in others)


def described(shape: list[int], *offsets: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "tensors",
    [
        {"0": described([2**20, 2**20], 0, 16)},
        {"0": described([4], 0, 2**40)},
        {"0": described([4], -16, 0)},
        {"0": described([4], 0, 16), "1": described([4], 0, 16)},
        {"weights": described([4], 0, 16)},
        {"0": described([], 0, 16)},
        {"0": described([4], 0, 16, dtype="PICKLE")},
        {"0": described([], 0, 16, dtype="C128")},
    ],
    ids=["shape", "end", "start", "overlap", "name", "no axis", "type", "number"],
)
def test_headers_that_lie_count_as_none(tmp_path: Path, tensors: dict[str, object]) -> None:
    header = json.dumps(tensors).encode()
    entry(tmp_path, "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    assert FeatureStore(tmp_path).read(key("a")) is None
    assert not entry(tmp_path, "a").exists()


def test_another_shape_or_type_of_the_same_bytes_counts_as_none(tmp_path: Path) -> None:
    for old, new in ((b"[6,4,4]", b"[4,6,4]"), (b'"F32"', b'"I32"')):
        FeatureStore(tmp_path).write(key("a"), maps())
        content = entry(tmp_path, "a").read_bytes()
        assert old in content
        entry(tmp_path, "a").write_bytes(content.replace(old, new))
        assert FeatureStore(tmp_path).read(key("a")) is None


def test_a_tensor_without_an_axis_counts_as_none(tmp_path: Path) -> None:
    save_file({"0": torch.tensor(1.0)}, entry(tmp_path, "a"), {"checksum": "00000000"})
    assert FeatureStore(tmp_path).read(key("a")) is None


def _hammer(folder: Path, limit: float, failures: "multiprocessing.Queue[str]") -> None:
    torch.set_num_threads(1)
    store = FeatureStore(folder, limit)
    for index in range(150):
        seed = index * 7 % 10
        found = store.read(key(str(seed)))
        if found is None:
            store.write(key(str(seed)), maps(seed))
        elif not all(map(torch.equal, found, maps(seed))):
            failures.put(f"entry {seed} is wrong")


def test_processes_share_a_folder(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.write(key("0"), maps())
    size = entry(tmp_path, "0").stat().st_size
    context = multiprocessing.get_context("spawn")
    failures: multiprocessing.Queue[str] = context.Queue()
    workers = [
        context.Process(target=_hammer, args=(tmp_path, 12 * size / 2**30, failures))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert failures.empty()
    assert not list(tmp_path.glob("*.partial"))
