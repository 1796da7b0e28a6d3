"""Pictures: panels of samples, sheets of them, and curves."""

from lcpdn_pl.plotting.curves import convergence, loss_curves, reliability, score_curves
from lcpdn_pl.plotting.panels import Panel, load_panels, save_panels
from lcpdn_pl.plotting.sheets import (
    ERRORS,
    PREDICTION,
    Tile,
    error_map,
    image_grid,
    method_sheet,
    overlay,
    overlay_sheet,
    sample_sheet,
)

__all__ = [
    "ERRORS",
    "PREDICTION",
    "Panel",
    "Tile",
    "convergence",
    "error_map",
    "image_grid",
    "load_panels",
    "loss_curves",
    "method_sheet",
    "overlay",
    "overlay_sheet",
    "reliability",
    "sample_sheet",
    "save_panels",
    "score_curves",
]
