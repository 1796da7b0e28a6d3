"""Rule-based reports say what the mask shows, and turn with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lcpdn_pl.data.images import read_mask
from lcpdn_pl.data.mask_reports import Wording, describe_mask
from lcpdn_pl.data.reports import agrees, allowed_transforms, rewrite_sides
from lcpdn_pl.data.samples import read_lvit
from lcpdn_pl.side_words import side_words

Mask = NDArray[np.uint8]

TURNS: dict[str, Callable[[Mask], Mask]] = {
    "hflip": np.fliplr,
    "vflip": np.flipud,
    "rot90": np.rot90,
    "transpose": np.transpose,
}


def mask(*boxes: tuple[int, int, int, int], size: int = 100) -> Mask:
    """Boxes of top, bottom, left, right."""
    drawn = np.zeros((size, size), np.uint8)
    for top, bottom, left, right in boxes:
        drawn[top:bottom, left:right] = 1
    return drawn


def grid(*rows: str) -> Mask:
    """Tiles of 50 pixels: of each digit, so many tenths of the rows are foreground."""
    tiles = []
    for row in rows:
        tile = [np.arange(50)[:, None] % 10 < int(digit) for digit in row]
        tiles.append(np.concatenate([np.repeat(t, 50, axis=1) for t in tile], axis=1))
    return np.concatenate(tiles).astype(np.uint8)


@pytest.mark.parametrize(
    ("boxes", "report"),
    [
        ([], "No pulmonary infection."),
        (
            [(10, 20, 10, 20)],
            "Unilateral pulmonary infection, one infected area, upper left lung.",
        ),
        (
            [(10, 20, 10, 20), (70, 80, 70, 80)],
            "Bilateral pulmonary infection, two infected areas, upper left lung and lower right "
            "lung.",
        ),
        (
            [(40, 45, 70, 80), (60, 70, 70, 80)],
            "Unilateral pulmonary infection, two infected areas, middle lower right lung.",
        ),
        (
            [(10, 80, 10, 20)],
            "Unilateral pulmonary infection, one infected area, all left lung.",
        ),
        # A fifth of an area beyond the middle is no second side, a third is one.
        (
            [(10, 20, 42, 52)],
            "Unilateral pulmonary infection, one infected area, upper left lung.",
        ),
        (
            [(10, 20, 40, 55)],
            "Bilateral pulmonary infection, one infected area, upper left lung and upper right "
            "lung.",
        ),
        # Touching corners connect.
        (
            [(10, 20, 10, 20), (20, 30, 20, 30)],
            "Unilateral pulmonary infection, one infected area, upper left lung.",
        ),
    ],
)
def test_lungs(boxes: list[tuple[int, int, int, int]], report: str) -> None:
    assert describe_mask(mask(*boxes), "lungs") == report


def test_many_areas_are_counted_in_digits() -> None:
    boxes = [(row, row + 2, 10, 12) for row in range(10, 90, 5)]
    assert "sixteen" not in describe_mask(mask(*boxes), "lungs")
    assert ", 16 infected areas, " in describe_mask(mask(*boxes), "lungs")
    assert ", twelve infected areas, " in describe_mask(mask(*boxes[:12]), "lungs")


@pytest.mark.parametrize(
    ("rows", "report"),
    [
        (("00", "00"), "There are no nuclei."),
        (("84", "44"), "The nuclei density in the upper left is high."),
        (("44", "48"), "The nuclei density in the lower right is high."),
        (("88", "44"), "The nuclei density in the upper is high."),
        (("48", "48"), "The nuclei density in the right is high."),
        (("55", "55"), "The nuclei are evenly distributed."),
        (("11", "11"), "The nuclei are sparsely distributed."),
        (("9191", "1919", "9191", "1919"), "The nuclei are irregularly distributed."),
    ],
)
def test_nuclei(rows: tuple[str, ...], report: str) -> None:
    assert describe_mask(grid(*rows), "nuclei") == report


@pytest.mark.parametrize(
    ("boxes", "report"),
    [
        ([], "No area."),
        ([(10, 20, 10, 20)], "One area, 1 % of the image, in the upper left."),
        ([(10, 15, 10, 15)], "One area, less than 1 % of the image, in the upper left."),
        ([(10, 90, 10, 20), (0, 5, 99, 100)], "Two areas, 8 % of the image, in the left half."),
        (
            [(10, 20, 10, 20), (70, 80, 70, 80)],
            "Two areas, 2 % of the image, in the upper left and the lower right.",
        ),
        ([(25, 75, 25, 75)], "One area, 25 % of the image, in all quarters."),
    ],
)
def test_generic(boxes: list[tuple[int, int, int, int]], report: str) -> None:
    assert describe_mask(mask(*boxes), "generic") == report


def test_what_only_the_middle_line_holds() -> None:
    assert describe_mask(mask((0, 9, 4, 5), size=9), "generic").endswith(", in the centre.")
    assert "nuclei" in describe_mask(mask((0, 9, 4, 5), size=9), "nuclei")
    assert describe_mask(mask((0, 3, 4, 5), size=9), "lungs") == (
        "Bilateral pulmonary infection, one infected area, upper left lung and upper right lung."
    )


def test_ignored_pixels_are_no_foreground() -> None:
    ignored = mask((10, 20, 10, 20)) + 254 * mask((70, 80, 70, 80))
    assert describe_mask(ignored, "lungs") == describe_mask(mask((10, 20, 10, 20)), "lungs")


def random_masks(count: int) -> list[Mask]:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        tops, lefts = rng.integers(0, 80, (2, rng.integers(1, 5)))
        boxes = [
            (t, t + h, x, x + h)
            for t, x, h in zip(tops, lefts, rng.integers(3, 30, 4), strict=False)
        ]
        drawn.append(mask(*boxes))
    return drawn


@pytest.mark.parametrize("wording", ["lungs", "nuclei", "generic"])
def test_reports_agree_with_their_masks_and_turn_with_them(wording: Wording) -> None:
    turned = 0
    for drawn in random_masks(100):
        report = describe_mask(drawn, wording)
        assert agrees(report, drawn) in (True, None)
        for transform in allowed_transforms(report) & TURNS.keys():
            other = describe_mask(np.ascontiguousarray(TURNS[transform](drawn)), wording)
            assert side_words(rewrite_sides(report, transform)) == side_words(other)
            turned += 1
    assert turned >= 100


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "wording", "equal"),
    [("MoNuSeg", "nuclei", 0.5), ("QaTa-COV19", "lungs", 0.98), ("MosMedDataPlus", "lungs", 0.95)],
)
def test_real_masks(real_data: Path, folder: str, wording: Wording, equal: float) -> None:
    samples = read_lvit(real_data / folder)
    same = 0
    for path, text in zip(samples["mask"], samples["text"], strict=True):
        drawn = read_mask(Path(path), (127, 255))
        report = describe_mask(drawn, wording)
        assert agrees(report, drawn) in ((None, True) if wording == "nuclei" else (True,))
        sides = [{zone.side for zone in side_words(words)} for words in (report, text)]
        same += sides[0] == sides[1]
    assert same / len(samples) >= equal
