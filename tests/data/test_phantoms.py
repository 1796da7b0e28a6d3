import re
from dataclasses import astuple
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lcpdn_pl.data.phantoms import _SCENES, LOOKS, Look, Phantom, _phantom, draw_phantom
from lcpdn_pl.data.phantoms.lungs import opacify
from lcpdn_pl.data.phantoms.reports import KINDS
from lcpdn_pl.data.phantoms.scene import Scene
from lcpdn_pl.errors import ConfigError

SIZE = 64
SEEDS = range(32)
FEW_SEEDS = range(16)
LUNGS: tuple[Look, ...] = ("xray", "ct")
PLACE = re.compile(
    r"(all|upper middle|upper lower|middle lower|upper|middle|lower) (left|right) lung"
)
NUMBERS = ["one", "two", "three", "four", "five", "six"]


@cache
def scene_of(look: Look, seed: int) -> Scene:
    return _SCENES[look](SIZE, np.random.default_rng(seed))


@cache
def phantom_of(look: Look, seed: int, named: tuple[int, ...]) -> Phantom:
    return _phantom(look, SIZE, np.random.default_rng(seed), named=named)


def named_kinds(look: Look, report: str) -> tuple[int, ...]:
    return tuple(
        kind for kind in (0, 1) if any(words in report.lower() for words in KINDS[look][kind])
    )


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(("size", "seeds"), [(32, 20), (64, 10), (127, 3), (128, 4), (256, 2)])
def test_shapes_values_and_foreground_share(look: Look, size: int, seeds: int) -> None:
    shares = []
    for seed in range(seeds):
        image, mask, report = astuple(draw_phantom(look, size, np.random.default_rng(seed)))
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert image.std() > 15
        assert mask.shape == (size, size)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        assert report.endswith(".")
        assert report[0].isupper()
        assert len(report.split()) <= 25
        if look != "nuclei":
            assert (image == image[..., :1]).all()
        shares.append((mask > 0).mean())
    assert min(shares) > 0.008
    assert max(shares) < 0.45
    assert 0.04 < np.mean(shares) < 0.25


@pytest.mark.parametrize("look", LOOKS)
def test_the_same_state_draws_the_same_bytes_and_another_does_not(look: Look) -> None:
    first, again, other = (draw_phantom(look, SIZE, np.random.default_rng(s)) for s in (7, 7, 8))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.report == again.report
    assert first.image.tobytes() != other.image.tobytes()
    assert first.mask.tobytes() != other.mask.tobytes()


@pytest.mark.parametrize("look", LOOKS)
def test_mask_is_the_union_of_the_kinds_the_report_names(look: Look) -> None:
    for seed in FEW_SEEDS:
        scene = scene_of(look, seed)
        for named in ((0,), (1,), (0, 1)):
            phantom = phantom_of(look, seed, named)
            assert named_kinds(look, phantom.report) == named
            np.testing.assert_array_equal(phantom.image, scene.image)
            np.testing.assert_array_equal(phantom.mask > 0, scene.kinds[list(named)].any(axis=0))


@pytest.mark.parametrize("look", LOOKS)
def test_the_choice_of_the_report_alone_changes_the_mask(look: Look) -> None:
    first, second = phantom_of(look, 3, (0,)), phantom_of(look, 3, (1,))
    np.testing.assert_array_equal(first.image, second.image)
    assert not (first.mask & second.mask).any()


@pytest.mark.parametrize("look", LOOKS)
def test_both_kinds_are_in_every_image_and_cover_alike_areas(look: Look) -> None:
    areas = np.array([scene_of(look, seed).kinds.mean(axis=(1, 2)) for seed in SEEDS])
    assert areas.min() > 0.008
    first, second = areas.mean(axis=0)
    assert 0.8 < first / second < 1.25


@pytest.mark.parametrize("look", LOOKS)
def test_no_rule_that_ignores_the_report_scores_well(look: Look) -> None:
    blind: dict[str, list[float]] = {"union": [], "first": [], "second": []}
    choices = []
    for seed in FEW_SEEDS:
        phantom = draw_phantom(look, SIZE, np.random.default_rng(seed))
        named = named_kinds(look, phantom.report)
        # The kinds are drawn after the two choices, so the same stream yields them again.
        rng = np.random.default_rng(seed)
        rng.random(), rng.integers(2)
        kinds = _SCENES[look](SIZE, rng).kinds
        mask = phantom.mask > 0
        np.testing.assert_array_equal(mask, kinds[list(named)].any(axis=0))
        choices.append(named)
        for rule, guess in zip(blind, (kinds.any(axis=0), *kinds), strict=True):
            blind[rule].append(dice(mask, guess))
    assert {(0,), (1,), (0, 1)} == set(choices)
    assert 0.03 < np.mean([len(named) == 2 for named in choices]) < 0.3
    assert all(np.mean(scores) < 0.77 for scores in blind.values())


@pytest.mark.parametrize("look", LOOKS)
def test_no_fixed_level_of_one_channel_finds_a_kind(look: Look) -> None:
    """The best level for each channel and direction, fixed over all images, stays poor."""
    images = np.stack([scene_of(look, seed).image for seed in SEEDS])
    kinds = np.stack([scene_of(look, seed).kinds for seed in SEEDS])
    for kind in (0, 1):
        for channel in range(3):
            for level in range(16, 255, 24):
                above = images[..., channel] > level
                assert max(dice(above, kinds[:, kind]), dice(~above, kinds[:, kind])) < 0.75


@pytest.mark.parametrize("look", LUNGS)
def test_side_level_and_number_words_are_true_of_the_mask(look: Look) -> None:
    for seed in FEW_SEEDS:
        scene = scene_of(look, seed)
        top, bottom = scene.rows
        for named in ((0,), (1,), (0, 1)):
            phantom = phantom_of(look, seed, named)
            mask, report = phantom.mask > 0, phantom.report.lower()
            halves = {"left": mask[:, : SIZE // 2], "right": mask[:, SIZE // 2 :]}
            places = {side: level for level, side in PLACE.findall(report)}
            assert set(places) == {side for side, half in halves.items() if half.any()}
            if "pulmonary" in report:
                assert ("unilateral" in report) == (len(places) == 1)
                assert ("bilateral" in report) == (len(places) == 2)
            for side, levels in places.items():
                height = (np.argwhere(halves[side])[:, 0].mean() - top) / (bottom - top)
                low, high = {
                    "upper": (0, 0.45),
                    "middle": (0.25, 0.75),
                    "lower": (0.55, 1),
                    "upper middle": (0.15, 0.55),
                    "middle lower": (0.45, 0.85),
                }.get(levels, (0.2, 0.8))
                assert low < height < high, (report, height)
            count = cv2.connectedComponents(phantom.mask, connectivity=4)[0] - 1
            assert f"{NUMBERS[count - 1]} " in report
            assert ("areas" in report) == (count > 1)


def test_nuclei_reports_name_the_densest_quarter_and_the_amount() -> None:
    for seed in FEW_SEEDS:
        for named in ((0,), (1,), (0, 1)):
            phantom = phantom_of("nuclei", seed, named)
            report = phantom.report.lower()
            half = SIZE // 2
            quarters = (phantom.mask > 0).reshape(2, half, 2, half).sum(axis=(1, 3))
            row, column = np.unravel_index(quarters.argmax(), (2, 2))
            assert f"{('upper', 'lower')[row]} {('left', 'right')[column]}" in report
            count = cv2.connectedComponents(phantom.mask, connectivity=4)[0] - 1
            if "density of" not in report and "nuclei density" not in report:
                word = "a few" if count < 12 else "several" if count < 20 else "many"
                assert report.startswith(word)


@pytest.mark.parametrize("look", LOOKS)
def test_reports_vary_in_wording(look: Look) -> None:
    reports = [
        phantom_of(look, seed, named).report.lower() for seed in FEW_SEEDS for named in ((0,), (1,))
    ]
    assert len(set(reports)) > 20
    for synonym in KINDS[look][0] + KINDS[look][1]:
        assert any(synonym in report for report in reports)


@pytest.mark.parametrize("look", LUNGS)
def test_consolidation_is_brighter_than_haze(look: Look) -> None:
    grey = [
        [scene.image[kind].mean() for kind in scene.kinds]
        for scene in (scene_of(look, seed) for seed in FEW_SEEDS)
    ]
    dense, haze = np.mean(grey, axis=0)
    assert dense > haze + 20


def test_consolidation_has_a_sharp_edge_and_haze_a_wide_one() -> None:
    n = 200
    kinds = np.zeros((2, n, n), bool)
    kinds[0, 40:160, :60] = kinds[1, 40:160, 100:] = True
    plain = np.full((n, n), 0.2, np.float32)
    painted = opacify(plain, kinds, np.random.default_rng(0), level=0.6)
    for columns, low, high in ((slice(10, 50), 1, 4), (slice(120, 180), 7, 16)):
        profile = painted[:, columns].mean(axis=1)[:70]  # enters the lesion at row 40
        rise = (profile - profile[0]) / (profile[60] - profile[0])
        width = ((rise > 0.1) & (rise < 0.9)).sum()
        assert low <= width <= high


def test_unknown_look_lists_the_looks() -> None:
    with pytest.raises(ConfigError, match=r"'mri'.*nuclei, xray, ct"):
        draw_phantom("mri", 64, np.random.default_rng(0))  # type: ignore[arg-type]


def test_too_small_size_names_value_and_bound() -> None:
    with pytest.raises(ConfigError, match=r"size is 31.*at least 32"):
        draw_phantom("ct", 31, np.random.default_rng(0))
