"""What a run leaves behind, and batch norm in short ones."""

from lcpdn_pl.callbacks.batch_norm import PreciseBatchNorm
from lcpdn_pl.callbacks.pretraining import PretrainingReport
from lcpdn_pl.callbacks.run import (
    CONFIG,
    EndTogether,
    RunSummary,
    SaveConfig,
    SaveOnInterrupt,
    StepProgressBar,
)
from lcpdn_pl.callbacks.segmentation import OverlaySheets, PredictionWriter, TestReport

__all__ = [
    "CONFIG",
    "EndTogether",
    "OverlaySheets",
    "PreciseBatchNorm",
    "PredictionWriter",
    "PretrainingReport",
    "RunSummary",
    "SaveConfig",
    "SaveOnInterrupt",
    "StepProgressBar",
    "TestReport",
]
