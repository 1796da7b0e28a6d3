"""Entries appear whole, torn ones are computed again, the limit holds."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lcpdn_pl.backbones.store import FeatureStore


def maps(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(c, s, s, generator=generator) for c, s in ((6, 4), (3, 8))]


def entry(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def assert_holds(store: FeatureStore, key: str, expected: list[Tensor]) -> None:
    found = store.read(key)
    assert found is not None
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_round_trip_counts_hits_and_misses(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "new" / "folder")
    assert store.read("a") is None
    store.write("a", maps())
    assert_holds(store, "a", maps())
    assert_holds(FeatureStore(store.folder), "a", maps())
    assert (store.hits, store.misses) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    store = FeatureStore(tmp_path)
    half = [m.to(dtype) for m in maps()]
    store.write("a", half)
    assert_holds(store, "a", half)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped bit", "zeros", "header"])
def test_torn_entries_count_as_none(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    FeatureStore(tmp_path).write("a", maps())
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
        assert store.read("a") is None
    assert "torn" in caplog.text
    store.write("a", maps())
    assert_holds(store, "a", maps())


def test_interrupted_write_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        store.write("a", maps())
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert store.read("a") is None


def test_limit_spares_entries_of_this_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FeatureStore(tmp_path).write("old", maps(0))
    size = entry(tmp_path, "old").stat().st_size
    os.utime(entry(tmp_path, "old"), (0, 0))
    store = FeatureStore(tmp_path, limit=2.5 * size / 2**30)
    for seed, key in enumerate("abcd", start=1):
        with caplog.at_level(logging.WARNING):
            store.write(key, maps(seed))
    assert store.read("old") is None
    assert_holds(store, "a", maps(1))
    assert_holds(store, "b", maps(2))
    assert store.read("c") is None
    assert store.read("d") is None
    assert caplog.text.count("is full") == 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= store.limit


def test_files_of_killed_writers_are_swept(tmp_path: Path) -> None:
    killed, writing = tmp_path / ".a.1.partial", tmp_path / ".b.2.partial"
    for path in (killed, writing):
        path.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(killed, (long_ago, long_ago))
    FeatureStore(tmp_path).write("a", maps())
    assert not killed.exists()
    assert writing.exists()


def _hammer(folder: Path, limit: float, failures: "multiprocessing.Queue[str]") -> None:
    torch.set_num_threads(1)
    store = FeatureStore(folder, limit)
    for index in range(150):
        seed = index * 7 % 10
        found = store.read(str(seed))
        if found is None:
            store.write(str(seed), maps(seed))
        elif not all(map(torch.equal, found, maps(seed))):
            failures.put(f"entry {seed} is wrong")


def test_processes_share_a_folder(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.write("0", maps())
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
