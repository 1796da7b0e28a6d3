"""Augmentation keeps image, mask and report in step."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lcpdn_pl.data.reports import TRANSFORMS
from lcpdn_pl.data.transforms import Augmentation, Changes, resize_image, to_tensor, turn, variants
from lcpdn_pl.errors import ConfigError

LUNG = "Unilateral pulmonary infection, upper left lung."
NUCLEI = "The nuclei density in the upper left is high."
FREE = "The nuclei lie evenly."
UNKNOWN = "Unilateral pulmonary infection, left apex."

Image = NDArray[np.uint8]


def _corner() -> tuple[Image, Image]:
    """An L in the upper left quadrant, as a mask and as the image of itself."""
    mask = np.zeros((64, 64), np.uint8)
    mask[6:26, 6:14] = 1
    mask[18:26, 6:24] = 1
    return np.repeat(mask[..., None] * 255, 3, axis=2), mask


def _quadrant(mask: Image) -> tuple[bool, bool]:
    """Whether the mark is in the lower and in the right half; it has to be in one quadrant."""
    rows, columns = np.nonzero(mask == 1)
    lower, right = (rows >= 32).mean(), (columns >= 32).mean()
    assert min(lower, 1 - lower) < 0.1
    assert min(right, 1 - right) < 0.1
    return bool(lower > 0.5), bool(right > 0.5)


def test_to_tensor_puts_channels_first_between_minus_one_and_one() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2] = (255, 51, 0)
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 2, 3)
    torch.testing.assert_close(tensor[:, 1, 2], torch.tensor([1.0, -0.6, -1.0]))
    assert tensor[:, 0].eq(-1).all()


def test_resize_averages_when_it_shrinks_and_interpolates_when_it_grows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    blocks = image.reshape(2, 4, 2, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, 2) - blocks).max() <= 0.5
    ramp = np.repeat(np.array([[0, 100], [0, 100]], np.uint8)[..., None], 3, axis=2)
    assert resize_image(ramp, 4)[0, :, 0].tolist() == [0, 25, 75, 100]
    assert resize_image(np.zeros((20, 10, 3), np.uint8), 5).shape == (5, 5, 3)


@pytest.mark.parametrize("report", [LUNG, NUCLEI, FREE, UNKNOWN])
def test_seed_alone_decides(report: str) -> None:
    mask = _corner()[1]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    augment = Augmentation()
    first = [augment(image, mask, report, seed) for seed in range(8)]
    other = Augmentation()
    again = [other(image, mask, report, seed) for seed in reversed(range(8))][::-1]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
        assert one[2] == two[2]
    assert len({changed.tobytes() for changed, _, _ in first}) >= 4


@pytest.mark.parametrize("report", [LUNG, NUCLEI, FREE, UNKNOWN])
def test_image_and_mask_move_together(report: str) -> None:
    image, mask = _corner()
    augment = Augmentation()
    for seed in range(40):
        changed, target, _ = augment(image, mask, report, seed)
        grey = changed.astype(float).mean(axis=2)
        bright = grey > (grey.min() + grey.max()) / 2
        assert (bright & (target == 1)).sum() / (bright | (target == 1)).sum() > 0.8


@pytest.mark.parametrize(("report", "count"), [(LUNG, 2), (NUCLEI, 4), (FREE, 4), (UNKNOWN, 1)])
def test_report_follows_the_mark(report: str, count: int) -> None:
    image, mask = _corner()
    augment = Augmentation()
    found = {}
    for seed in range(80):
        _, target, text = augment(image, mask, report, seed)
        found[_quadrant(target)] = text
        if "upper left" in report:
            lower, right = _quadrant(target)
            where = f"{('upper', 'lower')[lower]} {('left', 'right')[right]}"
            assert text == report.replace("upper left", where)
        else:
            assert text == report
    assert len(found) == count


@pytest.mark.parametrize(("report", "count"), [(LUNG, 2), (NUCLEI, 8), (FREE, 8), (UNKNOWN, 1)])
def test_variants_are_drawn_equally_often_and_exactly(report: str, count: int) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (6, 6), np.uint8)
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    wanted = [turn(variant, image, mask, report) for variant in variants(report)]
    assert len({one[0].tobytes() for one in wanted}) == len(wanted) == count
    assert wanted[0][0].tolist() == image.tolist()
    augment = Augmentation("dihedral")
    drawn = [augment(image, mask, report, seed) for seed in range(800)]
    counts = [
        sum(
            one[2] == text and np.array_equal(one[0], pixels) and np.array_equal(one[1], target)
            for one in drawn
        )
        for pixels, target, text in wanted
    ]
    assert sum(counts) == 800
    assert min(counts) > 0.7 * 800 / count


def test_turns_are_those_of_numpy() -> None:
    image, mask = _corner()
    expected = {
        "hflip": mask[:, ::-1],
        "vflip": mask[::-1],
        "rot90": np.rot90(mask),
        "rot180": mask[::-1, ::-1],
        "rot270": np.rot90(mask, -1),
        "transpose": mask.T,
    }
    for transform in TRANSFORMS:
        pixels, target, _ = turn((transform,), image, mask, FREE)
        assert target.tolist() == expected[transform].tolist()
        assert (pixels[..., 0] // 255).tolist() == target.tolist()
    anti = turn(variants(NUCLEI)[-1], image, mask, "The upper right.")
    assert anti[1].tolist() == mask[::-1, ::-1].T.tolist()
    assert anti[2] == "The upper right."
    with pytest.raises(ConfigError):
        turn(("rot90",), image, mask, LUNG)


def test_mild_changes_keep_grey_values_in_order() -> None:
    image = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, 2)
    mask = np.zeros((64, 64), np.uint8)

    def sorted_rows(changes: Changes) -> float:
        augment = Augmentation(changes)
        rows = [augment(image, mask, UNKNOWN, seed)[0][32, 8:-8, 0] for seed in range(60)]
        return sum(bool((np.diff(row.astype(int)) >= 0).all()) for row in rows) / len(rows)

    assert sorted_rows("dihedral") == 1
    assert sorted_rows("mild") > 0.95 > 0.85 > sorted_rows("full")  # noise changes their order


def test_shifts_go_to_all_sides_alike() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[62:66, 62:66] = 1
    image = np.repeat(mask[..., None] * 255, 3, axis=2)
    augment = Augmentation("mild")
    targets = [augment(image, mask, UNKNOWN, seed)[1] for seed in range(400)]
    centers = np.array([np.argwhere(target).mean(axis=0) - 63.5 for target in targets])
    assert np.abs(centers.mean(axis=0)).max() < 0.5
    assert centers.min(axis=0).max() < -4
    assert centers.max(axis=0).min() > 4


def test_small_changes_are_independent_of_the_turn() -> None:
    image, mask = _corner()
    augment = Augmentation()
    kinds = set()
    for seed in range(60):
        target = augment(image, mask, LUNG, seed)[1]
        moved = not any(np.array_equal(target, mask[:, ::step]) for step in (1, -1))
        kinds.add((_quadrant(target)[1], moved))
    assert len(kinds) == 4


def test_changes_are_drawn_independently() -> None:
    mask = _corner()[1]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    augment = Augmentation()
    kinds = set()
    for seed in range(60):
        changed, target, _ = augment(image, mask, UNKNOWN, seed)
        kinds.add((not np.array_equal(target, mask), not np.array_equal(changed, image)))
    assert kinds == {(False, False), (False, True), (True, True)}  # also colour without a shift


def test_mask_values_stay_and_inputs_are_left_alone() -> None:
    image, mask = _corner()
    mask[40:60, 40:60] = 255
    before = image.copy(), mask.copy()
    augment = Augmentation()
    found: set[int] = set()
    for seed in range(40):
        for report in (LUNG, FREE):
            changed, target, _ = augment(image, mask, report, seed)
            assert changed.dtype == target.dtype == np.uint8
            assert (changed.shape, target.shape) == (image.shape, mask.shape)
            found |= set(target.ravel().tolist())
    assert found == {0, 1, 255}
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
