"""Side words follow a turned image, and agree with its mask as before."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lcpdn_pl.data import MoNuSeg, MosMedPlus, QaTaCOV19
from lcpdn_pl.data.images import read_mask
from lcpdn_pl.data.masks import resize_mask
from lcpdn_pl.data.phantoms import LOOKS, Look, draw_phantom
from lcpdn_pl.data.reports import (
    TRANSFORMS,
    Transform,
    agrees,
    allowed_transforms,
    contradict,
    rewrite_sides,
)
from lcpdn_pl.data.samples import read_lvit
from lcpdn_pl.data.transforms import turn
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.side_words import side_words

Mask = NDArray[np.uint8]

INVERSES: dict[Transform, tuple[Transform, ...]] = {
    "hflip": ("hflip",),
    "vflip": ("vflip",),
    "rot180": ("rot180",),
    "transpose": ("transpose",),
    "rot90": ("rot270",),
    "rot270": ("rot90", "rot90", "rot90", "rot90", "rot90"),
}
BOTH = "Bilateral pulmonary infection, two infected areas,"
ONE = "Unilateral pulmonary infection, one infected area,"


def assert_follows(report: str, mask: Mask) -> None:
    """Where allowed: what undoes a transform gives the report back, and it stays as true."""
    for transform in allowed_transforms(report):
        turned = rewrite_sides(report, transform)
        assert allowed_transforms(turned) == allowed_transforms(report)
        for undo in INVERSES[transform]:
            turned = rewrite_sides(turned, undo)
        assert turned == report
        image = np.repeat(mask[..., None], 3, axis=2)
        _, moved, text = turn((transform,), image, mask, report)
        assert agrees(text, moved) is agrees(report, mask)


@pytest.mark.parametrize(
    ("report", "turned"),
    [
        # hflip, vflip, rot90, rot180, rot270, transpose
        ("left", ("right", "left", "lower", "right", "upper", "upper")),
        ("right", ("left", "right", "upper", "left", "lower", "lower")),
        ("upper", ("upper", "lower", "left", "lower", "right", "left")),
        ("lower", ("lower", "upper", "right", "upper", "left", "right")),
        (
            "upper left",
            ("upper right", "lower left", "lower left", "lower right", "upper right", "upper left"),
        ),
        (
            "lower left",
            (
                "lower right",
                "upper left",
                "lower right",
                "upper right",
                "upper left",
                "upper right",
            ),
        ),
        (
            "Top-Right",
            ("Top-Left", "Bottom-Right", "Top-Left", "Bottom-Left", "Bottom-Right", "Bottom-Left"),
        ),
        (
            "LEFT UPPER",
            ("RIGHT UPPER", "LEFT LOWER", "LEFT LOWER", "RIGHT LOWER", "RIGHT UPPER", "LEFT UPPER"),
        ),
    ],
)
def test_nuclei(report: str, turned: tuple[str, ...]) -> None:
    wording = "The nuclei density in the {} is high."
    for transform, expected in zip(TRANSFORMS, turned, strict=True):
        assert rewrite_sides(wording.format(report), transform) == wording.format(expected)
    assert allowed_transforms(wording.format(report)) == frozenset(TRANSFORMS)


@pytest.mark.parametrize(
    ("report", "mirrored", "upside_down"),
    [
        (f"{ONE} all left lung.", f"{ONE} all right lung.", f"{ONE} all left lung."),
        (f"{ONE} middle  left lung.", f"{ONE} middle  right lung.", f"{ONE} middle  left lung."),
        (
            f"{ONE} upper middle right lung.",
            f"{ONE} upper middle left lung.",
            f"{ONE} middle lower right lung.",
        ),
        (
            f"{ONE} middle upper left lung.",
            f"{ONE} middle upper right lung.",
            f"{ONE} lower middle left lung.",
        ),
        (
            f"{BOTH} upper middle left lung and lower right lung.",
            f"{BOTH} lower left lung and upper middle right lung.",
            f"{BOTH} middle lower left lung and upper right lung.",
        ),
        (
            f"{BOTH} upper lower left lung and all right lung..",
            f"{BOTH} all left lung and upper lower right lung..",
            f"{BOTH} upper lower left lung and all right lung..",
        ),
        (
            f"{BOTH[:-1]},lower left and upper middle lower right lung.",
            f"{BOTH[:-1]},upper middle lower left and lower right lung.",
            f"{BOTH[:-1]},upper left and upper middle lower right lung.",
        ),
        (
            f"{ONE} left lung and middle right lung.",
            f"{ONE} middle left lung and right lung.",
            f"{ONE} left lung and middle right lung.",
        ),
        (
            "Two areas of haze, lower right lung and upper left lung.",
            "Two areas of haze, upper right lung and lower left lung.",
            "Two areas of haze, upper right lung and lower left lung.",
        ),
        (
            "Upper left lung and lower right lung",
            "Upper right lung and lower left lung",
            "Lower left lung and upper right lung",
        ),
        (
            "Haze, lower left and right lung.",  # lower may belong to both: words stay in place
            "Haze, lower right and left lung.",
            "Haze, upper left and right lung.",
        ),
        (
            "Haze, all left lung and right lower lobe.",
            "Haze, all right lung and left lower lobe.",
            "Haze, all left lung and right upper lobe.",
        ),
        (
            "Haze in three lobes, upper left, middle left and lower right lung.",
            "Haze in three lobes, upper right, lower left and middle right lung.",
            "Haze in three lobes, lower left, middle left and upper right lung.",
        ),
    ],
)
def test_lungs(report: str, mirrored: str, upside_down: str) -> None:
    assert rewrite_sides(report, "hflip") == mirrored
    assert rewrite_sides(mirrored, "hflip") == report
    assert rewrite_sides(report, "vflip") == upside_down
    assert rewrite_sides(upside_down, "vflip") == report
    assert rewrite_sides(upside_down, "hflip") == rewrite_sides(report, "rot180")
    assert allowed_transforms(report) == {"hflip"}
    for quarter in ("rot90", "rot270", "transpose"):
        with pytest.raises(ConfigError, match=f"can follow {quarter}, found .* lung.* Leave"):
            rewrite_sides(report, quarter)


@pytest.mark.parametrize(
    "report",
    [
        "The nuclei are evenly distributed.",
        "The nuclei density is higher around.",
        "Bright, upright and stopped: eight leftover nuclei right away.",
        "Bilateral pulmonary infection, two infected areas.",
        "",
    ],
)
def test_no_side_is_left_alone(report: str) -> None:
    assert {rewrite_sides(report, transform) for transform in TRANSFORMS} == {report}
    assert side_words(report) == frozenset()
    assert agrees(report, np.ones((4, 4), np.uint8)) is None


@pytest.mark.parametrize(
    ("report", "expressible"),
    [
        ("Dense patches at the top.", {"hflip", "vflip", "rot180"}),
        ("Dense in the upper and lower left.", {"hflip", "vflip", "rot180"}),
        ("Dense in the middle left.", {"hflip", "vflip", "rot180"}),
        ("Dense on the left-hand side.", {"hflip", "vflip", "rot180"}),
        ("Dense in the upper left and lower right.", set(TRANSFORMS)),
        ("Dense in the middle.", {"hflip", "vflip", "rot180"}),
        ("One infected area, higher middle left lung.", {"hflip"}),
    ],
)
def test_only_what_can_be_said(report: str, expressible: set[Transform]) -> None:
    for transform in TRANSFORMS:
        if transform in expressible:
            rewrite_sides(report, transform)
        else:
            with pytest.raises(ConfigError, match="can follow"):
                rewrite_sides(report, transform)


@pytest.mark.parametrize(
    "word",
    ["lateral", "apex", "quadrant", "clockwise", "o'clock", "anterior", "leftmost", "rught", "eft"],
)
def test_nothing_is_guessed(word: str) -> None:
    report = f"One area, upper left {word.title()} lung."
    assert allowed_transforms(report) == frozenset()
    assert side_words(report) == frozenset()
    with pytest.raises(ConfigError, match=r"expected a report whose .* found .* Leave the image"):
        rewrite_sides(report, "hflip")


def test_chests_are_only_mirrored() -> None:
    for report in ("Lungs are clear.", "Three areas, middle lung.", "BILATERAL haze.", "Left lobe"):
        assert allowed_transforms(report) == {"hflip"}


def test_unknown_transform() -> None:
    with pytest.raises(ConfigError, match=r"expected one of .*hflip.*, found 'flip'"):
        rewrite_sides("left", "flip")  # type: ignore[arg-type]


def test_agrees_with_lungs() -> None:
    mask = np.zeros((5, 5), np.uint8)
    mask[:, 0], mask[:2, 4], mask[0, 2] = 1, 1, 255
    assert agrees(f"{ONE} left lung.", mask) is True
    assert agrees(f"{ONE} right lung.", mask) is False
    assert agrees(f"{BOTH} left lung and right lung.", mask) is True
    mask[:, 4] = 255
    assert agrees(f"{BOTH} left lung and right lung.", mask) is False
    assert agrees("Two areas, middle lung.", mask) is None


def test_agrees_with_density() -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[:2, :3] = 1
    found = {where: agrees(f"Dense in the {where}.", mask) for where in ("left", "lower", "middle")}
    assert found == {"left": True, "lower": False, "middle": None}
    assert agrees("Dense in the upper left.", mask) is True
    assert agrees("Dense in the lower right.", mask) is False
    assert agrees("Dense in the upper left and upper right.", mask) is True
    assert agrees("Dense in the left and in the right.", mask) is None


def test_truth_follows_whatever_is_said() -> None:
    rng = np.random.default_rng(0)
    vertical = ("", "upper ", "lower ", "middle ", "upper middle ", "top ", "All ", "higher lower ")
    for one, two, join in product(vertical, vertical, (" and ", " lung and ", " and the ")):
        for first, second in (("left", "right"), ("right", "left"), ("left", "left")):
            mask = (rng.random((9, 9)) < 0.1).astype(np.uint8)
            assert_follows(f"Dense, {one}{first}{join}{two}{second}.", mask)
            assert_follows(f"Dense, {one}{first}{join}{two}{second} lung.", mask)


@pytest.mark.parametrize("look", LOOKS)
def test_phantoms(look: Look) -> None:
    truths: Counter[bool | None] = Counter()
    for seed in range(60):
        phantom = draw_phantom(look, 64, np.random.default_rng(seed))
        mask = (phantom.mask == 255).astype(np.uint8)
        wanted = TRANSFORMS if look == "nuclei" else ("hflip",)
        assert allowed_transforms(phantom.report) == frozenset(wanted)
        assert_follows(phantom.report, mask)
        truths[agrees(phantom.report, mask)] += 1
    assert truths == {True: 60}


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "foreground", "reports", "refused", "least"),
    [
        ("MoNuSeg", (255,), 11, 0, 0.94),
        ("QaTa-COV19", (255,), 112, 3, 0.98),
        ("MosMedDataPlus", (127, 255), 37, 0, 0.95),
    ],
)
def test_real_reports(
    folder: str,
    foreground: tuple[int, ...],
    reports: int,
    refused: int,
    least: float,
    real_data: Path,
) -> None:
    samples = read_lvit(real_data / folder)
    distinct = set(samples["text"])
    assert len(distinct) == reports
    assert sum(not allowed_transforms(report) for report in distinct) == refused
    truths: Counter[bool | None] = Counter()
    for path, report in zip(samples["mask"], samples["text"], strict=True):
        mask = resize_mask(read_mask(Path(path), foreground), (64, 64), "native")
        assert_follows(report, mask)
        truths[agrees(report, mask)] += 1
    assert truths[True] / (truths[True] + truths[False]) > least


@pytest.mark.parametrize(
    ("report", "opposite"),
    [
        ("The nuclei are sparsely distributed.", "The nuclei are densely distributed."),
        ("The nuclei are evenly distributed.", "The nuclei are irregularly distributed."),
        (
            "The nuclei density in the lower left is high.",
            "The nuclei density in the upper right is high.",
        ),
        (
            "Unilateral pulmonary infection, one infected area, middle upper left lung.",
            "Unilateral pulmonary infection, one infected area, lower middle right lung.",
        ),
        (
            "upper left lung and lower right lung.",
            "lower left lung and upper right lung.",
        ),
        ("all left lung and all right lung.", "all left lung and all right lung."),
        ("all eft lung", "all eft lung"),
        ("", ""),
    ],
)
def test_contradict(report: str, opposite: str) -> None:
    assert contradict(report) == opposite


@pytest.mark.real
def test_most_reports_of_the_test_splits_have_an_opposite(real_data: Path) -> None:
    changed = []
    for module in (MoNuSeg, QaTaCOV19, MosMedPlus):
        samples = module(str(real_data / module.folder)).read_samples()
        reports = samples.loc[samples["split"] == "test", "text"]
        changed.append(sum(contradict(report) != report for report in reports))
        assert all(contradict(report) for report in reports)
    assert changed == [14, 31, 29]
