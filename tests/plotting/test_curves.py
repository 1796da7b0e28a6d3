"""Curves: smoothed, averaged over seeds, pooled by pixels."""

import numpy as np
import pandas as pd

from lcpdn_pl.plotting import convergence, loss_curves, reliability, score_curves
from lcpdn_pl.plotting.curves import SMOOTHED


def test_curves_have_a_line_a_range_and_the_mean() -> None:
    curve = pd.DataFrame(
        {
            "step": [10, 20],
            "hours": [1.0, 2.0],
            "loss_000_099": [0.5, 0.4],
            "loss_600_999": [0.1, 0.05],
            "loss": [0.3, 0.225],
        }
    )
    (axes,) = loss_curves(curve).axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert set(lines) == {"t = 0 to 99", "t = 600 to 999", "mean of the ranges"}
    wanted = {"t = 0 to 99": [0.5, 0.4], "t = 600 to 999": [0.1, 0.05]}
    for label, losses in (wanted | {"mean of the ranges": [0.3, 0.225]}).items():
        assert np.asarray(lines[label].get_xdata()).tolist() == [10, 20]
        assert np.asarray(lines[label].get_ydata()).tolist() == losses
    assert axes.get_yscale() == "log"


def test_convergence_is_smoothed_and_averaged_over_seeds() -> None:
    losses = np.arange(30.0)
    rows = [("a", "m", seed, step, losses[step] + seed) for seed in (0, 2) for step in range(30)]
    (axes,) = convergence(
        pd.DataFrame(rows, columns=["data", "method", "seed", "step", "loss"])
    ).axes
    shown = np.asarray(axes.lines[0].get_ydata())
    assert shown[0] == 1
    assert shown[-1] == losses[-SMOOTHED:].mean() + 1


def test_many_plots_stand_in_rows() -> None:
    rows = [(data, "m", 0, 1, 0.5) for data in "abcd"]
    curves = pd.DataFrame(rows, columns=["data", "method", "seed", "step", "loss"])
    plots = convergence(curves).axes
    assert [axes.get_title() for axes in plots] == ["a", "b", "c", "d"]
    places = [axes.get_subplotspec() for axes in plots]
    found = [(place.rowspan.start, place.colspan.start) for place in places if place]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1)]
    of_five = pd.concat([curves, curves.head(1).assign(data="e")])
    *shown, rest = convergence(of_five).axes
    assert (len(shown), shown[-1].get_title(), rest.axison) == (5, "e", False)


def test_scores_are_means_over_seeds() -> None:
    rows = [("a", "m", 0, 1, 60), ("a", "m", 1, 1, 70), ("a", "m", 0, 5, 80), ("b", "m", 0, 1, 50)]
    scores = pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])
    first, second = score_curves(scores, "images").axes
    assert (first.get_title(), second.get_title(), first.get_xlabel()) == ("a", "b", "images")
    assert np.asarray(first.lines[0].get_xdata()).tolist() == [1, 5]
    assert np.asarray(first.lines[0].get_ydata()).tolist() == [65, 80]


def test_a_method_has_one_color_in_all_plots_and_a_place_in_the_legend() -> None:
    rows = [("a", "m", 0, 1, 60), ("a", "n", 0, 1, 70), ("b", "o", 0, 1, 50), ("b", "n", 0, 1, 40)]
    figure = score_curves(pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"]), "x")
    first, second = figure.axes
    (legend,) = figure.legends
    colors = {line.get_label(): line.get_color() for line in legend.get_lines()}
    assert list(colors) == ["m", "n", "o"]
    assert len(set(colors.values())) == 3
    assert [line.get_color() for line in first.lines] == [colors["m"], colors["n"]]
    assert {line.get_color() for line in second.lines} == {colors["n"], colors["o"]}


def test_reliability_pools_seeds_by_pixels() -> None:
    rows = [
        ("a", "m", 0, 30, 0.1, 0.2),  # one seed
        ("a", "m", 0, 10, 0.3, 0.6),  # another
        ("a", "m", 1, 60, 0.9, 0.8),
        ("a", "m", 2, 0, 0.0, 0.0),
    ]
    names = ["data", "method", "bin", "pixels", "probability", "share"]
    (axes,) = reliability(pd.DataFrame(rows, columns=names)).axes
    line = axes.lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [0.15, 0.9])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.3, 0.8])
    # (40 * 0.15 + 60 * 0.1) / 100
    assert line.get_label() == "m (error 12.0 %)"
