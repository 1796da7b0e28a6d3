"""Files of torch.save: those that would fill the memory are refused before they are read."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lcpdn_pl.backbones.guided_diffusion import read_guided_diffusion
from lcpdn_pl.checkpoints import read_checkpoint
from lcpdn_pl.errors import CheckpointError, WeightsError
from lcpdn_pl.tensors import read_tensors

CONTENT = {"global_step": 1, "state_dict": {"weight": torch.zeros(2**20)}}


def saved() -> bytes:
    file = io.BytesIO()
    torch.save(CONTENT, file)
    return file.getvalue()


def deflated() -> bytes:
    """The same, packed into a hundredth of its size."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved())) as plain,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return file.getvalue()


def repeated() -> bytes:
    """One tensor's bytes, which two names in the list of parts stand for."""
    with zipfile.ZipFile(file := io.BytesIO(saved()), "a") as archive:
        largest = max(archive.filelist, key=lambda part: part.file_size)
        archive.filelist.append(largest)
        archive.writestr("archive/more", b"")  # so that the list is written anew
    return file.getvalue()


def listed_elsewhere() -> bytes:
    """Two lists of parts: Python takes the one before the end, torch the one that the end names."""
    packed = deflated()
    end = packed[-22:]
    length, start = struct.unpack("<2L", end[12:20])
    harmless = bytearray(packed[start : start + length])
    at = 0
    while at < length:
        harmless[at + 10 : at + 12] = bytes(2)  # its compression: none
        harmless[at + 20 : at + 28] = bytes(8)  # its sizes
        at += 46 + sum(struct.unpack("<3H", harmless[at + 28 : at + 34]))
    return packed[:-22] + harmless + end


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    (tmp_path / "new.pt").write_bytes(saved())
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        assert read_tensors(tmp_path / name)["global_step"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (deflated, "its parts are compressed"),
        (repeated, "its parts are said to be larger than the file"),
        (listed_elsewhere, "it is no archive as torch"),
        (lambda: saved() + b"end", "it is no archive as torch"),
        (lambda: b"PK\3\4" + bytes(100), "not a zip file"),
    ],
    ids=["deflated", "repeated", "elsewhere", "more", "torn"],
)
def test_what_would_fill_the_memory_is_refused(
    make: Callable[[], bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(torch, "load", load)
    path = tmp_path / "best.ckpt"
    path.write_bytes(make())
    with pytest.raises((ValueError, zipfile.BadZipFile), match=message):
        read_tensors(path)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: expected a checkpoint of lcpdn fit"):
        read_checkpoint(path)
    path = path.rename(tmp_path / "unet.pt")
    with pytest.raises(WeightsError, match=r"unet\.pt is not a readable state dict: "):
        read_guided_diffusion(path, {})
