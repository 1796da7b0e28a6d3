"""Curves: losses over training, scores against what was varied, reliability."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SMOOTHED = 10
"""Logged losses that a point of a convergence curve is the mean of."""


def convergence(curves: pd.DataFrame) -> Figure:
    """Training losses, one plot a data set: mean over seeds, and their range as a band.

    Each point is the mean of a seed's last :data:`SMOOTHED` values.

    Args:
        curves: Table with the columns data, method, seed, step and loss.
    """
    names = list(dict.fromkeys(curves["data"]))
    colors = _colors(curves)
    figure, plots = _plots(len(names), 4.5, 4)
    for axes, data in zip(plots, names, strict=True):
        for method, rows in curves[curves["data"] == data].groupby("method", sort=False):
            seeds = rows.pivot_table(index="step", columns="seed", values="loss")
            seeds = seeds.rolling(SMOOTHED, min_periods=1).mean()
            _mean_and_range(axes, seeds, "-", colors[str(method)])
        axes.set(title=data, xlabel="training step", ylabel="training loss")
        axes.grid(visible=True, alpha=0.3)
    _legend_below(figure, colors)
    return figure


def score_curves(scores: pd.DataFrame, label: str) -> Figure:
    """Dice against something that was varied: mean over seeds, and their range as a band.

    Args:
        scores: Table with the columns plot, method, seed, x and dice; one plot each value of the
            first.
        label: Of the x axis.
    """
    names = list(dict.fromkeys(scores["plot"]))
    colors = _colors(scores)
    figure, plots = _plots(len(names), 4, 3.8, sharey=True)
    for axes, name in zip(plots, names, strict=True):
        for method, rows in scores[scores["plot"] == name].groupby("method", sort=False):
            seeds = rows.pivot_table(index="x", columns="seed", values="dice")
            _mean_and_range(axes, seeds, "o-", colors[str(method)])
        axes.set(title=name, xlabel=label, xticks=sorted(set(scores["x"])), ylabel="Dice, compat")
        axes.grid(visible=True, alpha=0.3)
    _legend_below(figure, colors)
    return figure


def reliability(bins: pd.DataFrame) -> Figure:
    """Share of foreground against predicted probability, one plot a data set.

    Seeds are pooled. The legend has each method's expected calibration error: the mean distance of
    the two, weighted by pixels (Guo et al., ICML 2017).

    Args:
        bins: Table with the columns data, method, bin, pixels, probability and share.
    """
    names = list(dict.fromkeys(bins["data"]))
    colors = _colors(bins)
    most = bins.groupby("data")["method"].nunique().max()
    figure, plots = _plots(len(names), 4.2, 4.6 + 0.17 * most)
    for axes, data in zip(plots, names, strict=True):
        for method, rows in bins[bins["data"] == data].groupby("method", sort=False):
            sums = rows.assign(
                probability=rows["probability"] * rows["pixels"],
                share=rows["share"] * rows["pixels"],
            )
            pooled = sums.groupby("bin")[["pixels", "probability", "share"]].sum()
            pooled = pooled[pooled["pixels"] > 0]
            distance = (pooled["probability"] - pooled["share"]).abs().sum()
            error = 100 * distance / pooled["pixels"].sum()
            means = pooled.div(pooled["pixels"], axis=0)
            label = f"{method} (error {error:.1f} %)"
            points = means["probability"], means["share"]
            axes.plot(*points, "o-", markersize=3, label=label, color=colors[str(method)])
        axes.plot([0, 1], [0, 1], "k:", linewidth=1)
        axes.set(title=data, xlabel="predicted probability", ylabel="share of foreground")
        axes.grid(visible=True, alpha=0.3)
        # Below, where it hides no curve.
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def loss_curves(curve: pd.DataFrame) -> Figure:
    """Held-out denoising losses over training, on logarithmic axes.

    Args:
        curve: Table with the columns step, loss and loss_<first>_<last timestep>.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name in curve.columns:
        if name.startswith("loss_"):
            first, last = name.split("_")[1:]
            axes.plot(curve["step"], curve[name], label=f"t = {int(first)} to {int(last)}")
    axes.plot(curve["step"], curve["loss"], "k--", label="mean of the ranges")
    axes.set(xlabel="training step", ylabel="held-out loss (noise, mean squared error)")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def _plots(
    count: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Plots of one size in inches, in as many rows of at most three as they fill best."""
    rows = max(math.ceil(count / 3), 1)  # also where there is nothing to plot
    columns = max(math.ceil(count / rows), 1)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    for axes in plots[count:]:
        axes.set_axis_off()
    return figure, list(plots[:count])


def _colors(table: pd.DataFrame) -> dict[str, str]:
    """A color for each method, the same in all plots of a figure."""
    return {str(method): f"C{k % 10}" for k, method in enumerate(dict.fromkeys(table["method"]))}


def _mean_and_range(axes: Axes, seeds: pd.DataFrame, style: str, color: str) -> None:
    """A line and a band over the index; a column a seed."""
    axes.plot(seeds.index, seeds.mean(axis=1), style, color=color)
    band = seeds.min(axis=1), seeds.max(axis=1)
    axes.fill_between(seeds.index, *band, color=color, alpha=0.2)


def _legend_below(figure: Figure, colors: Mapping[str, str]) -> None:
    """One for all plots, in as many columns as there is room for."""
    lines = [Line2D([], [], color=color, label=method) for method, color in colors.items()]
    longest = max((len(method) for method in colors), default=1)
    columns = max(1, int(figure.get_figwidth() * 12 / (longest + 8)))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, fontsize=8)
