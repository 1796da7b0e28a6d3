"""Pictures written by bands."""

import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from lcpdn_pl.explain import explain
from lcpdn_pl.rasters import (
    BAND,
    HALF,
    PNG_PIXELS,
    RowFile,
    bands,
    raster_suffix,
    sixteen_bit,
    write_raster,
)

HEIGHT, WIDTH = 2 * BAND + 40, BAND + 30
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_rows_come_back(tmp_path: Path) -> None:
    numbers = RowFile(tmp_path / "numbers", WIDTH)
    for top, bottom in ((0, 3), (3, 100), (100, HEIGHT)):
        numbers.append(DEEP[top:bottom])
    np.testing.assert_array_equal(numbers.rows(0, HEIGHT), DEEP)
    np.testing.assert_array_equal(numbers.rows(99, 101), DEEP[99:101])
    assert (tmp_path / "numbers").stat().st_size == 2 * DEEP.size


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """NumPy's own error has no number that says so."""
    numbers = RowFile(tmp_path / "numbers", WIDTH)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            numbers.append(DEEP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "a file could not be written: File too large" in str(explain(error.value))


def test_more_than_half_is_more_than_half() -> None:
    above = np.nextafter(np.float32(0.5), np.float32(1))
    values = np.array([0, 0.25, 0.5, above, 0.75, 1], np.float32)
    assert sixteen_bit(values).tolist() == [0, 16384, HALF, HALF + 1, 49151, 65535]


def test_bands_cover_all_rows() -> None:
    assert list(bands(HEIGHT)) == [(0, 128), (128, 256), (256, 296)]
    assert list(bands(5)) == [(0, 5)]


def test_large_pictures_are_tiffs() -> None:
    assert PNG_PIXELS == 8192 * 8192
    assert raster_suffix(8192, 8192) == ".png"
    assert raster_suffix(8192, 8193) == ".tif"


@pytest.mark.parametrize("pixels", [DEEP, COLOUR, COLOUR[..., 0]], ids=["deep", "rgb", "grey"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pictures_come_back(tmp_path: Path, suffix: str, pixels: NDArray[Any]) -> None:
    path = tmp_path / f"a{suffix}"
    write_raster(path, (pixels[top:bottom] for top, bottom in bands(HEIGHT)), HEIGHT, WIDTH)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    if suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff
            assert (file.pages.first.tilelength, file.pages.first.compression) == (BAND, 8)
