"""Files that are written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lcpdn_pl.files import save_figure, write_whole


def test_write_whole_leaves_the_old_file_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "table.csv"
    write_whole(path, "old")

    def fail(_path: Path, _content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"


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

    def fail(_figure: Figure, where: Path, **_options: object) -> None:
        where.write_bytes(b"torn")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), path)
    assert path.read_bytes() == old
