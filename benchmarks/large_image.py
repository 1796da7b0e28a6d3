"""``lcpdn segment`` on a mosaic of any size: time, peak memory, and whether tiles leave a seam.

Lays the images of a folder side by side until they fill a square, segments it with the network that
comes with this package, in a process of its own, and prints a Markdown table:

- *jump at borders*: mean step of the probability from one pixel to the next where a tile begins or
  ends, over that everywhere else, columns and rows together; 1 is no seam. Borders of the images
  are left out. Tiles without overlap show what a seam looks like.
- *single pass*: crops of a tile's size that lie across four tiles, each segmented at once, and
  compared in their middle half: mean difference of the probability, the same within 4 pixels of the
  tiles' borders over that elsewhere, and Dice of the two masks.

    python benchmarks/large_image.py data/MoNuSeg/Train_Folder/img
    python benchmarks/large_image.py FOLDER --side 20000 --overlaps 0.25
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from lcpdn_pl.data.images import list_images, read_image
from lcpdn_pl.data.pictures import open_picture
from lcpdn_pl.errors import DataError
from lcpdn_pl.inference import load
from lcpdn_pl.rasters import bands, write_raster
from lcpdn_pl.tiling import Tiling

REPORT = "Nuclei in stained tissue"
NEAR = 4  # pixels on either side of a border
HEADERS = (
    *("side", "tile", "overlap", "tiles", "s", "peak, GiB", "jump at borders"),
    *("single pass: difference", "at borders", "Dice"),
)


def mosaic(folder: Path, side: int) -> tuple[Iterator[NDArray[np.uint8]], set[int]]:
    """Bands of rows of a square picture, and the rows and columns at which its images begin.

    Raises:
        DataError: If the images are no squares of one size.
    """
    paths = list_images(folder)
    images = [read_image(path) for path in paths]
    sizes = {image.shape for image in images}
    size = images[0].shape[0] if images else 0
    if len(sizes) != 1 or (size, size, 3) not in sizes:
        raise DataError(
            f"{folder}: expected square images of one size, found {sorted(sizes) or 'none'}. Give "
            "a folder such as MoNuSeg's."
        )

    # A third of an image further, so that images end elsewhere than tiles.
    shift = size // 3
    across = side // size + 2

    def row(number: int) -> NDArray[np.uint8]:
        first = number // size * across
        chosen = [images[(first + column) % len(images)] for column in range(across)]
        return np.concatenate([image[number % size] for image in chosen])[shift : shift + side]

    drawn = (
        np.stack([row(number) for number in range(top + shift, bottom + shift)])
        for top, bottom in bands(side)
    )
    return drawn, {edge - shift for edge in range(size, side + size, size)}


def segment(picture: Path, out: Path, tile: int, overlap: float) -> tuple[float, float]:
    """Seconds and peak memory in GiB of the command.

    The peak is at least that of this process, so that results are read once all is segmented.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "lcpdn_pl", "segment", str(picture), "--report", REPORT]
    options = ["--tile", str(tile), "--overlap", str(overlap), "--out", str(out)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def read_probability(folder: Path) -> NDArray[np.uint16]:
    """Probability [H, W] as 16-bit numbers, whatever file it was written to."""
    (path,) = folder.glob("*_probability.*")
    found = tifffile.imread(path) if path.suffix == ".tif" else cv2.imread(str(path), -1)
    return np.asarray(found, np.uint16)


def borders_of(tiling: Tiling) -> set[int]:
    """Rows, and columns alike, at which a tile begins or the one before it has ended."""
    return {edge for start in tiling.tops for edge in (start, start + tiling.tile[0])}


def jump_at_borders(probability: NDArray[np.uint16], tiling: Tiling, images: set[int]) -> float:
    """Mean step between neighbours at the tiles' borders, over that at all others."""
    at: list[float] = []
    elsewhere: list[float] = []
    borders = borders_of(tiling)
    for rows in (probability, np.ascontiguousarray(probability.T)):
        for position, (one, two) in enumerate(pairwise(rows), start=1):
            if position not in images:
                step = float(np.abs(np.subtract(one, two, dtype=np.int32)).mean())
                (at if position in borders else elsewhere).append(step)
    return float(np.mean(at) / np.mean(elsewhere))


def single_pass(
    picture: Path, probability: NDArray[np.uint16], tiling: Tiling
) -> tuple[float, float, float]:
    """Mean difference to crops that lie across four tiles, that at borders, and masks' Dice."""
    segmenter = load()
    image = open_picture(picture)
    side = tiling.tile[0]
    borders = np.array(sorted(borders_of(tiling)))
    at, elsewhere, both, each = [], [], 0, 0
    places = [(one + two) // 2 for one, two in pairwise(tiling.tops)]
    for place in places[:: max(1, len(places) // 4)]:
        crop = np.ascontiguousarray(image.rows(place, place + side)[:, place : place + side])
        middle = slice(side // 4, side - side // 4)
        alone = segmenter.segment(crop, REPORT).probability[middle, middle]
        tiled = probability[place : place + side, place : place + side][middle, middle] / 65535
        difference = np.abs(alone - tiled)
        within = np.arange(place, place + side)[middle]
        near = (np.abs(within[:, None] - borders) < NEAR).any(axis=1)
        either = near[:, None] | near
        at.append(difference[either])
        elsewhere.append(difference[~either])
        both += 2 * int(((alone > 0.5) & (tiled > 0.5)).sum())
        each += int((alone > 0.5).sum() + (tiled > 0.5).sum())
    away, beside = np.concatenate(elsewhere), np.concatenate(at)
    mean = float(np.concatenate([away, beside]).mean())
    return mean, float(beside.mean() / away.mean()), both / each if each else 1.0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="square images of one size")
    parser.add_argument("--side", type=int, default=10_000, help="of the mosaic, in pixels")
    parser.add_argument("--tile", type=int, default=1000)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.25, 0.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "mosaic.tif")
        content, images = mosaic(options.folder, options.side)
        write_raster(picture, content, options.side, options.side)
        outs = {overlap: Path(folder, str(overlap)) for overlap in options.overlaps}
        costs = {
            overlap: segment(picture, out, options.tile, overlap) for overlap, out in outs.items()
        }
        print("| " + " | ".join(HEADERS) + " |\n" + "|---" * len(HEADERS) + "|")
        for overlap, (seconds, peak) in costs.items():
            tiling = Tiling.of(options.side, options.side, options.tile, overlap)
            probability = read_probability(outs[overlap])
            jump = jump_at_borders(probability, tiling, images)
            difference, beside, dice = single_pass(picture, probability, tiling)
            cells = (
                *(f"{options.side:,}", options.tile, overlap, tiling.count, f"{seconds:.0f}"),
                *(f"{peak:.2f}", f"{jump:.2f}", f"{difference:.4f}", f"{beside:.2f}"),
                f"{100 * dice:.1f}",
            )
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
