"""TIFF files that are read by parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from lcpdn_pl.data.images import read_image
from lcpdn_pl.data.pictures import DecodedPicture, Picture, open_picture, tiff
from lcpdn_pl.data.pictures.tiff import TiffPicture
from lcpdn_pl.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 2**16, (70, 50), dtype=np.uint16)


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGE", 0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True, "tile": (16, 32)},
        {"tile": (32, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 8, "compression": "zlib"},
        {"rowsperstrip": 1000, "compression": "zlib"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pixels", [COLOUR, COLOUR[..., 0], DEEP], ids=["rgb", "grey", "deep"])
def test_parts_are_what_the_whole_is(tmp_path: Path, pixels: Any, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels is COLOUR else None, **options)
    picture = open_picture(path)
    assert isinstance(picture, TiffPicture)
    grey = np.rint(DEEP / 257).astype(np.uint8) if pixels is DEEP else pixels
    expected = grey if pixels is COLOUR else np.repeat(grey[..., None], 3, axis=2)
    for top, bottom in ((0, 70), (0, 1), (15, 33), (69, 70), (30, 70)):
        np.testing.assert_array_equal(picture.rows(top, bottom), expected[top:bottom])


def test_small_ones_are_read_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "LARGE", 70 * 50)
    path = tmp_path / "a.tif"
    Image.fromarray(DEEP).save(path)
    picture = open_picture(path)
    assert isinstance(picture, DecodedPicture)
    np.testing.assert_array_equal(picture.rows(0, 70), read_image(path))
    monkeypatch.setattr(tiff, "LARGE", 70 * 50 - 1)
    np.testing.assert_array_equal(open_picture(path).rows(0, 70), read_image(path))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    pixels = np.dstack([COLOUR, np.zeros((70, 50), np.uint8)])
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16)
    )
    np.testing.assert_array_equal(open_picture(tmp_path / "a.tif").rows(0, 70), COLOUR)


def test_only_the_parts_that_hold_the_rows_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for index, (offset, count) in enumerate(places):
        if index not in (4, 5, 6, 7):  # four tiles across, the second row of them
            content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    picture = open_picture(path)
    np.testing.assert_array_equal(picture.rows(16, 32), COLOUR[16:32])
    for top, bottom in ((15, 32), (16, 33)):
        with pytest.raises(DataError, match=r"a\.tif: this TIFF cannot be read"):
            picture.rows(top, bottom)


def test_a_pyramid_gives_its_full_size(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(COLOUR, tile=(16, 16), photometric="rgb")
        writer.write(COLOUR[::2, ::2], tile=(16, 16), photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(open_picture(tmp_path / "a.tif").rows(0, 70), COLOUR)


@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib"}, {}], ids=str)
@pytest.mark.parametrize("large", [0, 2**26], ids=["large", "small"])
def test_a_thumbnail_before_the_picture_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(tiff, "LARGE", large)
    full = np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(full[::10, ::10], photometric="rgb", subfiletype=1)
        writer.write(full, photometric="rgb", **options)
        writer.write(full[::4, ::4], photometric="rgb", subfiletype=1)
    picture = open_picture(tmp_path / "a.tif")
    assert (picture.height, picture.width) == (200, 300)
    np.testing.assert_array_equal(picture.rows(0, 200), full)
    np.testing.assert_array_equal(picture.rows(150, 171), full[150:171])


def write_aperio(path: Path, *tiled: Any, **options: Any) -> None:
    """A file as Aperio's scanners write it: picture, thumbnail, then tiled pages, then the label.

    Args:
        path: The file.
        tiled: Pixels of the tiled pages, none of them flagged as a copy.
        options: Of the first page alone.
    """
    description = "Aperio Image Library v11.2.1 \r\n50x70 [0,0 50x70] (16x16) |AppMag = 40"
    first, *levels = ({"data": page, "tile": (16, 16)} for page in tiled)
    thumbnail = {"data": COLOUR[::3, ::3], "subfiletype": 0}
    label = {"data": COLOUR[:9, :9], "subfiletype": 1}
    with tifffile.TiffWriter(path) as writer:
        for page in (first | options, thumbnail, *levels, label):
            page = {"description": description, "compression": "zlib"} | page
            writer.write(**page, photometric="rgb", metadata=None)


@pytest.mark.parametrize("large", [0, 2**26], ids=["large", "small"])
def test_aperio_pyramids_give_their_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(tiff, "LARGE", large)
    write_aperio(tmp_path / "a.svs", COLOUR, COLOUR[::2, ::2], COLOUR[::4, ::4])
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        assert [page.aspage().is_reduced for page in file.pages] == [False] * 4 + [True]
        assert [len(series.levels) for series in file.series] == [3, 1, 1]
    picture = open_picture(tmp_path / "a.svs")
    assert (picture.height, picture.width) == (70, 50)
    np.testing.assert_array_equal(picture.rows(0, 70), COLOUR)
    np.testing.assert_array_equal(picture.rows(15, 33), COLOUR[15:33])


def test_several_focal_planes_are_refused(tmp_path: Path) -> None:
    write_aperio(tmp_path / "a.svs", COLOUR, COLOUR, COLOUR, COLOUR[::2, ::2], COLOUR[::2, ::2])
    with pytest.raises(DataError, match=r"a\.svs: expected one picture, found 3 pages"):
        open_picture(tmp_path / "a.svs")


def test_pages_of_other_makers_are_no_pyramid(tmp_path: Path) -> None:
    write_aperio(tmp_path / "a.tif", COLOUR, COLOUR[::2, ::2], description="Mine")
    with pytest.raises(DataError, match=r"a\.tif: expected one picture, found 3 pages"):
        open_picture(tmp_path / "a.tif")


def test_a_reduced_picture_alone_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(open_picture(tmp_path / "a.tif").rows(0, 70), COLOUR)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([COLOUR, COLOUR]), photometric="rgb")
    with pytest.raises(DataError, match=r"a\.tif: expected one picture, found 2 pages"):
        open_picture(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(COLOUR, photometric="rgb")
        writer.write(COLOUR, photometric="rgb")
    with pytest.raises(DataError, match=r"b\.tif: expected one picture, found 2 pages"):
        open_picture(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("pixels", "options", "found"),
    [
        (COLOUR[..., 0], {"photometric": "miniswhite"}, "MINISWHITE"),
        (COLOUR[..., 0].astype(np.float32), {}, "float32"),
        (
            np.moveaxis(COLOUR, 2, 0),
            {"photometric": "rgb", "planarconfig": "separate"},
            "planar configuration 2",
        ),
        (COLOUR, {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}, "orientation 6"),
    ],
    ids=["white is 0", "floats", "planar", "turned"],
)
def test_other_layouts_are_refused(
    tmp_path: Path, pixels: Any, options: dict[str, Any], found: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(DataError, match=rf"a\.tif: expected grey .* found .*{found}"):
        open_picture(tmp_path / "a.tif")


def test_one_huge_compressed_part_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, compression="zlib", rowsperstrip=70)
    monkeypatch.setattr("lcpdn_pl.data.pictures.base.MAX_PIXELS", 70 * 50 - 1)
    with pytest.raises(DataError, match=r"a\.tif, in one part: declares 70 x 50 pixels"):
        open_picture(tmp_path / "a.tif")


def packed(pixels: bytes) -> bytes:
    """PackBits, of single bytes and of runs of 100 by turns."""
    parts = []
    while pixels:
        run = pixels[:100]
        if len(run) == 100 and len(set(run)) == 1:
            parts.append(bytes([257 - 100, run[0]]))
        else:
            run = pixels[:1]
            parts.append(b"\0" + run)
        pixels = pixels[len(run) :]
    return b"".join(parts)


def write_packed(path: Path, parts: list[bytes]) -> Picture:
    """A grey picture of 70 x 50 in strips of PackBits of 8 rows; opened."""
    options: dict[str, Any] = {"dtype": np.uint8, "rowsperstrip": 8, "photometric": "minisblack"}
    tifffile.imwrite(path, iter(parts), shape=(70, 50), compression="zlib", **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Compression"].overwrite(32773)
    return open_picture(path)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\x80", b"\x81\0"], ids=repr)
def test_packbits(tmp_path: Path, padding: bytes) -> None:
    values = np.where(np.arange(70)[:, None] < 40, COLOUR[..., 0], 9).astype(np.uint8)
    parts = [packed(values[top : top + 8].tobytes()) + padding for top in range(0, 70, 8)]
    picture = write_packed(tmp_path / "a.tif", parts)
    assert isinstance(picture, TiffPicture)
    np.testing.assert_array_equal(picture.rows(0, 70), np.repeat(values[..., None], 3, axis=2))


def test_packbits_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused before anything is unpacked."""
    picture = write_packed(tmp_path / "a.tif", [packed(bytes(8 * 50)) + b"\x81\0" * 2] * 9)
    monkeypatch.setattr(tifffile.TiffPage, "decode", None)
    message = r"a\.tif: this TIFF cannot be read \(part 1 unpacks to more than its 400 bytes\)"
    with pytest.raises(DataError, match=message):
        picture.rows(8, 9)


def test_a_size_that_its_parts_do_not_fill_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(7000)
    with pytest.raises(DataError, match=r"7000 x 50 needs 1752 tiles or strips, found 20"):
        open_picture(path)


def test_torn_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"a\.tif: this TIFF cannot be read .* again"):
        open_picture(path).rows(60, 70)
    path.write_bytes(content[:12])
    with pytest.raises(DataError, match=r"a\.tif: this TIFF cannot be read"):
        open_picture(path)


def test_missing_decoders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, tile=(16, 16), compression="zlib")
    picture = open_picture(tmp_path / "a.tif")

    def decode(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "decode", decode)
    with pytest.raises(DataError, match=r"a\.tif: .* pip install imagecodecs"):
        picture.rows(0, 1)
