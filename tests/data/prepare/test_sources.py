"""Archives inside of archives."""

import io
import zipfile
from pathlib import Path, PurePath

import pytest

from lcpdn_pl.data.prepare import archives
from lcpdn_pl.data.prepare.sources import find_files
from lcpdn_pl.errors import DataError


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, part in members.items():
            packed.writestr(name, part)
    return content.getvalue()


@pytest.fixture
def inner() -> dict[str, bytes]:
    """Archives none of which is a bomb by itself."""
    return {f"{n}.zip": zipped({"img/a.png": bytes(9000), "n.txt": b"%d" % n}) for n in range(4)}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM", 20_000)
    monkeypatch.setattr(archives, "MOST_RATIO", 2)


def test_bombs_of_archives_in_an_archive(inner: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped(inner))
    scratch = tmp_path / "scratch"
    with pytest.raises(DataError, match=r"archives that unpack to too much"):
        find_files(tmp_path / "x.zip", scratch)
    assert sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file()) < 20_000


def test_archives_side_by_side_are_each_their_own(inner: dict[str, bytes], tmp_path: Path) -> None:
    source = tmp_path / "downloads"
    source.mkdir()
    for name, content in inner.items():
        (source / name).write_bytes(content)
    found = [file.inside for file in find_files(source, tmp_path / "scratch")]
    assert PurePath("3/img/a.png") in found
    assert len(found) == 8


def test_archives_that_are_too_deep_stay_packed(tmp_path: Path) -> None:
    content = zipped({"a.txt": b"1"})
    for depth in range(4):
        content = zipped({f"{depth}.zip": content})
    (tmp_path / "x.zip").write_bytes(content)
    (only,) = find_files(tmp_path / "x.zip", tmp_path / "scratch")
    assert only.inside == PurePath("x/3/2/1.zip")
