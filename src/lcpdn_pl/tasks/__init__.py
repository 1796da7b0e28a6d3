"""What is done with a network: training, testing, prediction."""

from lcpdn_pl.tasks.base import SegmentationTask

__all__ = ["SegmentationTask"]
