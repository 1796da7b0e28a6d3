"""What a run leaves behind."""

from lcpdn_pl.callbacks.pretraining import PretrainingReport
from lcpdn_pl.callbacks.run import CONFIG, RunSummary, SaveConfig, SaveOnInterrupt
from lcpdn_pl.callbacks.segmentation import OverlaySheets, PredictionWriter, TestReport

__all__ = [
    "CONFIG",
    "OverlaySheets",
    "PredictionWriter",
    "PretrainingReport",
    "RunSummary",
    "SaveConfig",
    "SaveOnInterrupt",
    "TestReport",
]
