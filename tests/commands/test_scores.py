"""Figures of runs side by side, and whether a difference is one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from lcpdn_pl.commands.results import label_rows, read_results
from lcpdn_pl.commands.scores import (
    best_method,
    compare,
    holm,
    image_scores,
    result_table,
    strength_scores,
    training_scores,
)
from tests.commands.test_results import IMAGES, write_run


def test_the_table_has_a_row_for_each_rule(tmp_path: Path) -> None:
    for name, dice, seed in (("a", 70, 0), ("b", 72, 1)):
        write_run(tmp_path / name, dice, seed)
    results = read_results([tmp_path])
    table = result_table(results, label_rows(results))
    assert list(table["rule"]) == ["compat", "native"] * 2
    row = table[(table["run"] == str(tmp_path / "b")) & (table["rule"] == "compat")].iloc[0]
    assert (row["seed"], row["dice"], row["images"]) == (1, 75.5, 8)


def test_runs_of_one_seed_count_as_one(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0)
    write_run(tmp_path / "again", 72, 0)
    write_run(tmp_path / "b", 80, 1, protocol="draw_1")
    write_run(tmp_path / "c", 90, 1, protocol="draw_2")
    results = read_results([tmp_path])
    assert [result.repeat for result in results] == ["0", "0", "1, draw_1", "1, draw_2"]
    scores = image_scores(results, label_rows(results), "compat")
    assert list(scores) == [("lcpdn", "0"), ("lcpdn", "1, draw_1"), ("lcpdn", "1, draw_2")]
    np.testing.assert_allclose(scores["lcpdn"]["0"], 71 + np.arange(8))


def test_scores_leave_other_reports_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0)
    write_run(tmp_path / "b", 80, 1)
    write_run(tmp_path / "c", 10, 1, reports="empty")
    write_run(tmp_path / "d", 20, 1, turns=True)
    results = read_results([tmp_path, tmp_path / "b"])
    assert len(results) == 4  # the run that both folders hold counts once
    scores = image_scores(results, label_rows(results), "compat")
    assert list(scores.index) == IMAGES
    kinds = ["right", "right", "empty", "right, mean over turns"]
    assert [result.kind for result in results] == kinds
    assert list(scores) == [("lcpdn", "0"), ("lcpdn", "1")]
    np.testing.assert_allclose(scores["lcpdn"].T, [70 + np.arange(8), 80 + np.arange(8)])


def test_strengths_start_at_the_image_as_it_is(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70)
    for kind, strength, dice in (("noise", 1, 60), ("noise", 3, 40), ("blur", 2, 50)):
        write_run(tmp_path / "a", dice, corruption=(kind, strength))
    write_run(tmp_path / "a", 30, reports="empty")
    write_run(tmp_path / "b", 20, 1, method="unet")  # tested as they are alone
    results = read_results([tmp_path])
    found = strength_scores(results, label_rows(results))
    assert sorted(found.round(6).itertuples(index=False, name=None)) == [
        ("monuseg, blur", "lcpdn", 0, 0, 73.5),
        ("monuseg, blur", "lcpdn", 0, 2, 53.5),
        ("monuseg, noise", "lcpdn", 0, 0, 73.5),
        ("monuseg, noise", "lcpdn", 0, 1, 63.5),
        ("monuseg, noise", "lcpdn", 0, 3, 43.5),
    ]


def test_runs_with_fewer_images_are_data_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70)
    for count, dice in ((2, 60), (10, 75)):
        write_run(tmp_path / f"b{count}", dice, train_images=count)
    results = read_results([tmp_path])
    names = ["monuseg", "monuseg, 10 training images", "monuseg, 2 training images"]
    assert [result.data for result in results] == names
    found = training_scores(results, label_rows(results))
    assert sorted(found.round(6).itertuples(index=False, name=None)) == [
        ("monuseg", "lcpdn", 0, 2, 63.5),
        ("monuseg", "lcpdn", 0, 10, 78.5),
    ]


def test_comparison_is_wilcoxon_over_images_after_holm() -> None:
    rng = np.random.default_rng(0)
    best = rng.uniform(60, 80, 30)
    images = pd.DataFrame(
        {"same": best, "best": best, "near": best - rng.normal(0.4, 1, 30), "far": best - 5}
    )
    table = compare(pd.concat({0: images}, axis=1).swaplevel(axis=1), "best")
    raw = [wilcoxon(images[name] - best).pvalue for name in ("near", "far")]
    assert table.loc["far", "p"] == pytest.approx(3 * raw[1])
    assert table.loc["near", "p"] == pytest.approx(2 * raw[0])
    assert list(table.loc["same"]) == [0, 0, 0, 1, 1]
    assert list(table.loc["far"])[:3] == pytest.approx([-5] * 3)
    near = table.loc["near"]
    assert near["difference"] == pytest.approx((images["near"] - best).mean())
    error = (images["near"] - best).std() / 30**0.5
    assert near["high"] - near["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_comparison_is_over_the_seeds_that_both_have() -> None:
    """A seed is a draw of training images: one that only one of the two had tells nothing."""
    images = np.arange(12.0)
    scores = pd.DataFrame(
        {
            ("a", 0): images + 70,
            ("a", 1): images + 40,
            ("b", 0): images + 69,
            ("b", 2): images + 90,
            ("c", 3): images,
        }
    )
    table = compare(scores, "a")
    assert list(table.loc["b"]) == pytest.approx([-1, -1, -1, wilcoxon(np.full(12, -1)).pvalue, 1])
    assert table.loc["c", "seeds"] == 0
    assert table.loc["c"].isna().sum() == 4


def test_the_best_method_is_best_over_what_all_have() -> None:
    rows = pd.DataFrame(
        [("a", "0", 70, 9), ("a", "1", 40, 1), ("b", "0", 69, 5), ("b", "0", 69, 5)],
        columns=["method", "repeat", "dice", "iou"],
    )
    assert [best_method(rows, figure) for figure in ("dice", "iou")] == ["a", "a"]
    other = pd.DataFrame([("c", "2", 60, 6)], columns=rows.columns)
    assert [best_method(pd.concat([rows, other]), f) for f in ("dice", "iou")] == ["b", "c"]


def test_holm_by_hand() -> None:
    found = holm(np.array([0.04, 0.01, 0.03, 0.5]))
    assert found.tolist() == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
