"""Pictures: overlay sheets of images, reports, truths and predictions."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from lcpdn_pl.errors import RunError
from lcpdn_pl.files import write_whole
from lcpdn_pl.metrics import IGNORE, dice_iou, image_counts

# Blue and orange tell apart for colour-blind readers too.
ERRORS = {
    "hit": (0.35, 0.70, 0.45),
    "false alarm": (0.90, 0.45, 0.10),
    "miss": (0.15, 0.40, 0.85),
    "ignored": (0.60, 0.60, 0.60),
}
MOST_BYTES = 2**28
"""What the panels of a run may take; eight of 1024 x 1024 take 40 MB."""
_COLUMNS = ("image", "mask", "prediction", "text", "name")
SMOOTHED = 10
"""Logged losses that a point of a convergence curve is the mean of."""
TRUTH, PREDICTION = (0.20, 0.85, 0.35), (1.00, 0.85, 0.10)


@dataclass(frozen=True)
class Panel:
    """One row of an overlay sheet; the masks have the image's size.

    Attributes:
        image: float [3, H, W] in [-1, 1].
        text: The report.
        name: The sample's name.
        prediction: [H, W] in {0, 1}.
        mask: Truth [H, W] in {0, 1, 255}; ``None`` where there is none.
    """

    image: Tensor
    text: str
    name: str
    prediction: Tensor
    mask: Tensor | None = None


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Writes panels to a .npz file, images as 8 bits, for pictures of several runs."""
    content = BytesIO()
    np.savez_compressed(
        content,
        image=np.stack([((p.image.float().cpu() + 1) * 127.5).round().byte() for p in panels]),
        mask=np.stack([_or_ignored(p).byte().cpu() for p in panels]),
        prediction=np.stack([p.prediction.byte().cpu() for p in panels]),
        text=np.array([p.text for p in panels]),
        name=np.array([p.name for p in panels]),
    )
    write_whole(path, content.getvalue())


def load_panels(path: Path) -> list[Panel]:
    """Reads what :func:`save_panels` wrote.

    Raises:
        RunError: If it is no such file, or says to unpack to far more.
    """
    try:
        columns = _columns(path)
    except (BadZipFile, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: expected the pictures that lcpdn test writes, found another file ({error}). "
            "Remove it, or run lcpdn test again."
        ) from error
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    return [
        Panel(
            torch.from_numpy(row["image"]) / 127.5 - 1,
            str(row["text"]),
            str(row["name"]),
            torch.from_numpy(row["prediction"]).long(),
            None if (row["mask"] == IGNORE).all() else torch.from_numpy(row["mask"]).long(),
        )
        for row in rows
    ]


def _columns(path: Path) -> list[NDArray[Any]]:
    with ZipFile(path) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"{size >> 20} MiB, of at most {MOST_BYTES >> 20}")
    with np.load(path, allow_pickle=False) as content:
        columns = [np.asarray(content[name]) for name in _COLUMNS]
    if columns[0].ndim != 4 or {len(column) for column in columns} != {len(columns[0])}:
        raise ValueError(f"arrays of shapes {[column.shape for column in columns]}")
    return columns


def _or_ignored(panel: Panel) -> Tensor:
    ignored = torch.full_like(panel.prediction, IGNORE)
    return ignored if panel.mask is None else panel.mask


def overlay(
    image: NDArray[np.float64], mask: NDArray[np.bool_], color: tuple[float, float, float]
) -> NDArray[np.float64]:
    """The image [H, W, 3] in [0, 1] with the mask [H, W] tinted and its border drawn."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    alpha = np.where(mask & ~inner, 0.9, 0.35 * mask)[..., None]
    return np.asarray(image * (1 - alpha) + np.array(color) * alpha)


def error_map(prediction: NDArray[np.bool_], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hits, false alarms, misses and ignored pixels in the colours of ``ERRORS``, on black."""
    truth = mask == 1
    regions = {
        "hit": prediction & truth,
        "false alarm": prediction & ~truth,
        "miss": ~prediction & truth,
        "ignored": mask == IGNORE,
    }
    picture = np.zeros((*mask.shape, 3))
    for name, region in regions.items():
        picture[region] = ERRORS[name]
    return picture


def overlay_sheet(panels: Sequence[Panel], title: str) -> Figure:
    """Draws one row a panel: image, report, truth, prediction with its Dice, error map.

    Args:
        panels: At least one.
        title: Above everything.
    """
    figure = Figure(figsize=(10.5, 2.2 * len(panels) + 0.8), layout="constrained")
    axes = figure.subplots(len(panels), 5, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        _draw_row(row, panel)
    for axis, heading in zip(
        axes[0], ("image", "report", "truth", "prediction", "error map"), strict=True
    ):
        axis.set_title(heading, fontsize=10, fontweight="bold", y=1.08)
    figure.suptitle(title, fontsize=11)
    _name_errors(figure)
    return figure


def _name_errors(figure: Figure) -> None:
    patches = [Patch(color=color, label=name) for name, color in ERRORS.items()]
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), fontsize=8)


def _draw_row(row: Sequence[Axes], panel: Panel) -> None:
    _draw_sample(row, panel)
    _draw_prediction(row[3], panel)
    _draw_errors(row[4], panel)


def _draw_errors(axis: Axes, panel: Panel) -> None:
    if panel.mask is not None:
        prediction = panel.prediction.cpu().numpy().astype(bool)
        axis.imshow(error_map(prediction, panel.mask.cpu().numpy()))


def _draw_sample(row: Sequence[Axes], panel: Panel) -> None:
    """Image, report and truth."""
    for axis in row:
        axis.set_axis_off()
    image = _picture(panel)
    row[0].imshow(image)
    row[0].text(0, 1.02, panel.name, fontsize=7, transform=row[0].transAxes)
    report = textwrap.fill(panel.text or "(empty report)", 24)
    row[1].text(0.5, 0.5, report, fontsize=8.5, ha="center", va="center", wrap=False)
    if panel.mask is None:
        row[2].text(0.5, 0.5, "no mask given", fontsize=8.5, ha="center", va="center")
    else:
        row[2].imshow(overlay(image, panel.mask.cpu().numpy() == 1, TRUTH))


def _draw_prediction(axis: Axes, panel: Panel) -> None:
    prediction = panel.prediction.cpu()
    axis.imshow(overlay(_picture(panel), prediction.numpy().astype(bool), PREDICTION))
    if panel.mask is not None:
        dice, _ = dice_iou(*image_counts(prediction[None], panel.mask[None].cpu()))
        axis.text(0, 1.02, f"Dice {100 * dice.item():.1f}", fontsize=7, transform=axis.transAxes)


def _picture(panel: Panel) -> NDArray[np.float64]:
    """[H, W, 3] in [0, 1]."""
    return np.asarray((panel.image.float().cpu().numpy().transpose(1, 2, 0) + 1) / 2)


def method_sheet(panels: Mapping[str, Sequence[Panel]], title: str, errors: bool = False) -> Figure:
    """Draws one row an image: image, report, truth, and each method's prediction with its Dice.

    Args:
        panels: By method; all show the same images in the same order.
        title: Above everything.
        errors: Draw error maps in place of predictions.
    """
    first = next(iter(panels.values()))
    columns = 3 + len(panels)
    figure = Figure(figsize=(2.1 * columns, 2.2 * len(first) + 0.8), layout="constrained")
    axes = figure.subplots(len(first), columns, squeeze=False)
    for row, *shown in zip(axes, *panels.values(), strict=True):
        _draw_sample(row, shown[0])
        for axis, panel in zip(row[3:], shown, strict=True):
            (_draw_errors if errors else _draw_prediction)(axis, panel)
    for axis, heading in zip(axes[0], ("image", "report", "truth", *panels), strict=True):
        axis.set_title(textwrap.fill(heading, 22), fontsize=9, fontweight="bold", y=1.08)
    figure.suptitle(title, fontsize=11)
    if errors:
        _name_errors(figure)
    return figure


def convergence(curves: pd.DataFrame) -> Figure:
    """Training losses, one plot a data set: mean over seeds, and their range as a band.

    Each point is the mean of a seed's last :data:`SMOOTHED` values.

    Args:
        curves: Table with the columns data, method, seed, step and loss.
    """
    names = list(dict.fromkeys(curves["data"]))
    width = 4.5 * max(len(names), 1)
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    plots = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for axes, data in zip(plots, names, strict=False):
        for method, rows in curves[curves["data"] == data].groupby("method", sort=False):
            seeds = rows.pivot_table(index="step", columns="seed", values="loss")
            seeds = seeds.rolling(SMOOTHED, min_periods=1).mean()
            (line,) = axes.plot(seeds.index, seeds.mean(axis=1), label=str(method))
            band = seeds.min(axis=1), seeds.max(axis=1)
            axes.fill_between(seeds.index, *band, color=line.get_color(), alpha=0.2)
        axes.set(title=data, xlabel="training step", ylabel="training loss")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def score_curves(scores: pd.DataFrame, label: str) -> Figure:
    """Dice against something that was varied: mean over seeds, and their range as a band.

    Args:
        scores: Table with the columns plot, method, seed, x and dice; one plot each value of the
            first.
        label: Of the x axis.
    """
    names = list(dict.fromkeys(scores["plot"]))
    figure = Figure(figsize=(4 * len(names), 3.8), layout="constrained")
    plots = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(plots, names, strict=True):
        for method, rows in scores[scores["plot"] == name].groupby("method", sort=False):
            seeds = rows.pivot_table(index="x", columns="seed", values="dice")
            (line,) = axes.plot(seeds.index, seeds.mean(axis=1), "o-", label=str(method))
            band = seeds.min(axis=1), seeds.max(axis=1)
            axes.fill_between(seeds.index, *band, color=line.get_color(), alpha=0.2)
        axes.set(title=name, xlabel=label, xticks=sorted(set(scores["x"])))
        axes.grid(visible=True, alpha=0.3)
    plots[0].set_ylabel("Dice, compat")
    plots[0].legend(fontsize=8)
    return figure


def reliability(bins: pd.DataFrame) -> Figure:
    """Share of foreground against predicted probability, one plot a data set.

    Seeds are pooled. The legend has each method's expected calibration error: the mean distance of
    the two, weighted by pixels (Guo et al., ICML 2017).

    Args:
        bins: Table with the columns data, method, bin, pixels, probability and share.
    """
    names = list(dict.fromkeys(bins["data"]))
    figure = Figure(figsize=(4.2 * len(names), 4.2), layout="constrained")
    plots = figure.subplots(1, len(names), squeeze=False)[0]
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
            axes.plot(means["probability"], means["share"], "o-", markersize=3, label=label)
        axes.plot([0, 1], [0, 1], "k:", linewidth=1)
        axes.set(title=data, xlabel="predicted probability", ylabel="share of foreground")
        axes.set_aspect("equal")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def image_grid(images: Tensor, title: str) -> Figure:
    """Images [N, 3, H, W] in [-1, 1] in a nearly square grid."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.6 * columns, 1.6 * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image in zip(figure.axes, images, strict=False):
        axes.imshow(((image.permute(1, 2, 0) + 1) / 2).cpu().numpy())
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


@dataclass(frozen=True)
class Tile:
    """One picture of a sample sheet.

    Attributes:
        image: [H, W, 3] in 0..255.
        mask: Foreground [H, W], of the image's size; ``None`` where there is none.
        name: Above the picture.
        text: The report, below it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    name: str
    text: str


def sample_sheet(tiles: Sequence[Tile], title: str, columns: int = 4) -> Figure:
    """Draws samples in rows of some: the image with its mask, name and report.

    Args:
        tiles: At least one.
        title: Above everything.
        columns: Pictures in a row.
    """
    rows = math.ceil(len(tiles) / columns)
    figure = Figure(figsize=(2.6 * columns, 3.4 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, tile in zip(axes, tiles, strict=False):
        image = tile.image / 255
        axis.imshow(image if tile.mask is None else overlay(image, tile.mask, TRUTH))
        axis.set_title(textwrap.fill(tile.name, 36), fontsize=7)
        lines = textwrap.wrap(tile.text or "(no report)", 44)
        text = "\n".join([*lines[:5], "..."] if len(lines) > 5 else lines)
        axis.text(0.5, -0.03, text, fontsize=7, ha="center", va="top", transform=axis.transAxes)
    return figure
