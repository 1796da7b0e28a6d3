"""What is done with a network: training, testing, prediction, pretraining."""

from lcpdn_pl.tasks.base import Task
from lcpdn_pl.tasks.consistency import ConsistencyTask
from lcpdn_pl.tasks.denoising import DenoisingTask
from lcpdn_pl.tasks.diffusion_segmentation import DiffusionSegmentationTask
from lcpdn_pl.tasks.segmentation import SegmentationTask

__all__ = [
    "ConsistencyTask",
    "DenoisingTask",
    "DiffusionSegmentationTask",
    "SegmentationTask",
    "Task",
]
