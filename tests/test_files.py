"""Files that are written whole or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lcpdn_pl.files import save_figure, write_whole


def fail(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "disk full")


def test_write_whole_leaves_the_old_file_alone_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "table.csv"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full") as failed:
        write_whole(path, "new")
    assert failed.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf8_and_bytes_are_kept(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "Grüße\n")
    write_whole(tmp_path / "b.png", b"\x89PNG\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "Grüße\n".encode()
    assert (tmp_path / "b.png").read_bytes() == b"\x89PNG\r\n"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.png"}


def test_figure_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "sheet.png"
    save_figure(Figure(figsize=(2, 1), facecolor="red"), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (260, 130)
        assert (np.asarray(picture.convert("RGB")) == [255, 0, 0]).all()
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), path)
    assert path.read_bytes() == old
