"""Archives from strangers: good ones are unpacked, the others are refused as a whole."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from lcpdn_pl.data.prepare import archives
from lcpdn_pl.data.prepare.archives import archive_stem, unpack
from lcpdn_pl.errors import DataError

Members = dict[str, bytes]

GOOD: Members = {"a/b/one.png": b"1" * 3000, "a/two words.csv": b"2", "ü.txt": b""}


def write(path: Path, members: Members) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in members.items():
                packed.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as packed_tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed_tar.addfile(info, io.BytesIO(content))
    return path


def unpacked(folder: Path) -> Members:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(params=["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def refused(archive: Path) -> str:
    """The message; nothing was written, inside of the folder or outside of it."""
    folder = archive.parent / "out" / "deep"
    with pytest.raises(DataError) as caught:
        unpack(archive, folder)
    assert not unpacked(archive.parent / "out")
    assert str(caught.value).startswith(f"{archive}: expected ")
    return str(caught.value)


def test_good_archives(archive: Path, tmp_path: Path) -> None:
    unpack(write(archive, GOOD), tmp_path / "out")
    assert unpacked(tmp_path / "out") == GOOD
    assert archive_stem(archive.name) == "x"


def test_what_is_whole_is_not_unpacked_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(archive, GOOD)
    copy = shutil.copyfileobj

    def die(source: io.BytesIO, target: io.BytesIO) -> None:
        if target.tell() == 0 and source.read(1) == b"2":
            target.write(b"torn")
            raise KeyboardInterrupt
        target.write(b"1")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", die)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out")
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    first = tmp_path / "out" / "a/b/one.png"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "out" / "a/two words.csv").exists()
    unpack(archive, tmp_path / "out")
    assert first.stat().st_mtime_ns == before
    assert {
        name: text for name, text in unpacked(tmp_path / "out").items() if "part" not in name
    } == GOOD


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/evil.png", "..\\evil.png", "C:\\evil.png", "\\x"]
)
def test_names_that_lead_out(archive: Path, name: str) -> None:
    text = refused(write(archive, {"good.png": b"1", name: b"evil"}))
    assert f"1 members whose name leads out of the folder: {name!r}\n" in text
    assert "Nothing was unpacked" in text


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (tarfile.SYMTYPE, "1 links: bad"),
        (tarfile.LNKTYPE, "1 links: bad"),
        (tarfile.FIFOTYPE, "1 devices: bad"),
        (tarfile.CHRTYPE, "1 devices: bad"),
    ],
)
def test_links_and_devices_in_tars(tmp_path: Path, kind: bytes, found: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        info = tarfile.TarInfo("bad")
        info.type, info.linkname = kind, "/etc/passwd"
        packed.addfile(info)
    assert found in refused(tmp_path / "x.tar")


@pytest.mark.parametrize(("mode", "found"), [(stat.S_IFLNK, "links"), (stat.S_IFIFO, "devices")])
def test_links_and_devices_in_zips(tmp_path: Path, mode: int, found: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        info = zipfile.ZipInfo("bad")
        info.external_attr = (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    assert f"1 {found}: bad" in refused(tmp_path / "x.zip")


def test_encrypted_zips(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", {"secret.png": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "1 encrypted files: secret.png" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_there_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name in ("a.png", "./a.png", "b.png"):
            packed.writestr(name, name)
    assert "names that are empty or there twice: './a.png'" in refused(tmp_path / "x.zip")


def test_bombs_by_ratio(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM", 10_000)
    write(archive, {"a.png": bytes(9_000)})
    unpack(archive, archive.parent / "small")
    write(archive, {"a.png": b"1", "bomb.png": bytes(2**22)})
    if archive.suffix == ".tar":  # takes what it holds
        unpack(archive, archive.parent / "tar")
    else:
        assert "1 archives that unpack to too much, as this member shows: bomb" in refused(archive)


def test_a_bomb_beside_much_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM", 10_000)
    path = write(tmp_path / "x.zip", {"bomb.png": bytes(2**22), "b.png": os.urandom(2**16)})
    assert "too much, as this member shows: bomb.png" in refused(path)


def test_bombs_of_many_members(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{number}.png": bytes(2**19) for number in range(5)}
    if archive.suffix != ".tar":
        with monkeypatch.context() as patch:
            patch.setattr(archives, "RATIO_FROM", 2**20)
            assert "as this member shows: 2.png" in refused(write(archive, members))
    monkeypatch.setattr(archives, "MOST_MEMBERS", 4)
    assert "unpack to too much, as this member shows: 4.png" in refused(write(archive, members))


def test_bombs_by_size(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    assert "too much, as this member shows: b.png" in refused(
        write(archive, {"a.png": bytes(600), "b.png": bytes(600)})
    )


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_bombs_in_the_headers_of_a_tar(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("a.png")
    header.type, header.size = kind, 2**32
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as packed:
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        packed.write(bytes(2**26))
    tracemalloc.start()
    text = refused(tmp_path / "x.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "found: headers of more than 512 MiB" in text
    assert peak < 2**23


def test_headers_of_many_members_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.tar", {f"{number}.png": b"1" for number in range(40)})
    unpack(path, tmp_path / "whole")
    monkeypatch.setattr(archives, "MOST_HEADERS", 30 * 512)
    assert "headers of more than" in refused(path)


def test_other_packings_of_a_tar_are_refused(tmp_path: Path) -> None:
    for name, pack in (("x.tar", bz2.compress), ("x.tgz", lzma.compress)):
        plain = write(tmp_path / "plain.tar", GOOD).read_bytes()
        (tmp_path / name).write_bytes(pack(plain))
        assert "expected a whole archive" in refused(tmp_path / name)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE])
def test_negative_sizes(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a.png")
    info.type = kind
    header = bytearray(info.tobuf())
    header[124:136] = b"\xff" * 10 + (-512).to_bytes(2, "big", signed=True)  # base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as packed:
        packed.write(header + bytes(2**26))
    tracemalloc.start()
    refused(tmp_path / "x.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_a_zip_whose_list_lies_about_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", {"a.png": bytes(100_000)})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(content)
    assert "expected a whole archive" in refused_when_read(path)


def refused_when_read(archive: Path) -> str:
    with pytest.raises(DataError) as caught:
        unpack(archive, archive.parent / "out")
    names = [name for name in unpacked(archive.parent / "out") if not name.endswith(".part")]
    assert not names
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04" + bytes(40)])
def test_no_archive(archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    assert "expected a whole archive" in refused(archive)


def test_torn_archives(archive: Path) -> None:
    write(archive, {"a.png": bytes(range(256)) * 40, "b.png": b"2" * 5000})
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert "expected a whole archive" in refused(archive)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", {"a": b"1", "a/b": b"2"})
    with pytest.raises(DataError, match=r"x\.zip: expected a whole archive .* by hand"):
        unpack(path, tmp_path / "out")
