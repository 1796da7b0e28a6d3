"""Dice and IoU of the foreground, per image and pooled."""

from typing import TypedDict

import torch
from torch import Tensor
from torchmetrics import Metric

IGNORE = 255
"""Target value of pixels that no loss and no metric looks at."""


class Scores(TypedDict):
    """What :class:`SegmentationScore` computes, each a scalar tensor in [0, 1]."""

    dice: Tensor
    iou: Tensor
    dice_global: Tensor
    iou_global: Tensor


def foreground(prediction: Tensor) -> Tensor:
    """Foreground of logits [B, 2, H, W], or of a mask [B, H, W] of any integer or bool type."""
    return prediction.argmax(dim=1) == 1 if prediction.is_floating_point() else prediction == 1


def image_counts(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives of each image.

    Args:
        prediction: Logits [B, 2, H, W] or a mask [B, H, W].
        target: [B, H, W] in {0, 1}, or 255 for pixels to ignore.

    Returns:
        Three int64 tensors [B].

    Raises:
        ValueError: If the sizes differ.
    """
    predicted = foreground(prediction)
    if predicted.shape != target.shape:
        raise ValueError(
            f"Prediction is {tuple(predicted.shape)} but target is {tuple(target.shape)}; bring "
            "them to one size first."
        )
    valid, actual = target != IGNORE, target == 1
    predicted = predicted & valid
    return (
        (predicted & actual).flatten(1).sum(dim=1),
        (predicted & ~actual).flatten(1).sum(dim=1),
        (~predicted & actual).flatten(1).sum(dim=1),
    )


def dice_iou(
    tp: Tensor, fp: Tensor, fn: Tensor, empty_score: float | None = 1.0
) -> tuple[Tensor, Tensor]:
    """Dice 2 TP / (2 TP + FP + FN) and IoU TP / (TP + FP + FN) from counts.

    Where there is neither foreground nor prediction both are ``empty_score``; ``None`` gives nan.
    """
    empty = torch.nan if empty_score is None else empty_score
    union = tp + fp + fn
    dice = torch.where(union > 0, 2 * tp / (tp + union), empty)
    return dice, torch.where(union > 0, tp / union, empty)


class SegmentationScore(Metric):
    """Foreground Dice and IoU under both averaging rules.

    ``dice`` and ``iou`` are means over images, the figures that papers of this field report.
    ``dice_global`` and ``iou_global`` come from the pixels of all images pooled, so that large
    structures weigh more. One is never derived from the other: the mean of Dice is not the Dice
    of the mean IoU.

    Args:
        empty_score: Score of an image without foreground for which none is predicted: 1 (right
            answer, default), 0 (some public codes), or ``None`` to leave such images out.
    """

    full_state_update = False
    dice_sum: Tensor
    iou_sum: Tensor
    images: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def __init__(self, empty_score: float | None = 1.0) -> None:
        super().__init__()
        self.empty_score = empty_score
        for name in ("dice_sum", "iou_sum"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")
        for name in ("images", "tp", "fp", "fn"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch; arguments as in :func:`image_counts`."""
        counts = image_counts(prediction, target)
        dice, iou = dice_iou(*counts, self.empty_score)
        self.dice_sum += dice.nansum()
        self.iou_sum += iou.nansum()
        self.images += (~dice.isnan()).sum()
        for name, count in zip(("tp", "fp", "fn"), counts, strict=True):
            setattr(self, name, getattr(self, name) + count.sum())

    def compute(self) -> Scores:
        """The four figures; nan where no image counts."""
        dice_global, iou_global = dice_iou(self.tp, self.fp, self.fn, self.empty_score)
        return {
            "dice": self.dice_sum / self.images,
            "iou": self.iou_sum / self.images,
            "dice_global": dice_global,
            "iou_global": iou_global,
        }

    def all_background(self) -> bool:
        """Whether no pixel was predicted as foreground though the images have some."""
        with self.sync_context():  # of all processes, as in compute
            return bool(self.tp + self.fp == 0) and bool(self.fn > 0)
