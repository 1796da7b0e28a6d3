"""Sheets: images with their reports, truths, predictions and errors side by side."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from lcpdn_pl.metrics import IGNORE, dice_iou, image_counts
from lcpdn_pl.plotting.panels import Panel

# Blue and orange tell apart for colour-blind readers too.
ERRORS = {
    "hit": (0.35, 0.70, 0.45),
    "false alarm": (0.90, 0.45, 0.10),
    "miss": (0.15, 0.40, 0.85),
    "ignored": (0.60, 0.60, 0.60),
}
TRUTH, PREDICTION = (0.20, 0.85, 0.35), (1.00, 0.85, 0.10)


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
    name = row[0].text(0, 1.02, panel.name, fontsize=7, transform=row[0].transAxes)
    name.set_in_layout(False)  # a long one stands above the report, and moves nothing
    for axis in row[1:3]:  # what holds no picture is as large as one, and its heading as high
        axis.set_box_aspect(image.shape[0] / image.shape[1])
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


def _name_errors(figure: Figure) -> None:
    patches = [Patch(color=color, label=name) for name, color in ERRORS.items()]
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), fontsize=8)
