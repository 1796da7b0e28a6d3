"""Dice and IoU of the foreground, per image and pooled."""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torchmetrics import Metric

IGNORE = 255
"""Target value of pixels that no loss and no metric looks at."""
THRESHOLDS = tuple(sorted((k / 20 for k in range(1, 20)), key=lambda t: abs(t - 0.5)))
"""0.05 to 0.95, from the middle outwards."""


class Scores(TypedDict):
    """What :class:`SegmentationScore` computes, each a scalar tensor in [0, 1]."""

    dice: Tensor
    iou: Tensor
    dice_global: Tensor
    iou_global: Tensor


def foreground(prediction: Tensor) -> Tensor:
    """Foreground of logits [B, 2, H, W], or of a mask [B, H, W] in {0, 1}.

    Raises:
        ValueError: If it is of another shape, or a mask of other values.
    """
    _check(prediction)
    return prediction.argmax(dim=1) == 1 if prediction.is_floating_point() else prediction == 1


def _check(prediction: Tensor) -> None:
    shape = tuple(prediction.shape)
    if prediction.is_floating_point():
        if len(shape) != 4 or shape[1] != 2:
            raise ValueError(
                f"Prediction is {shape} of {prediction.dtype}: expected logits [B, 2, H, W]. A "
                "mask [B, H, W] is to be of an integer type or bool."
            )
    elif prediction.numel() and prediction.max() > 1:
        raise ValueError(
            f"Prediction has the value {prediction.max().item()}: expected a mask of 0 and 1. "
            "Compare it with what is foreground first."
        )


def shift(logits: Tensor, threshold: float) -> Tensor:
    """Logits [B, 2, H, W] whose foreground is above one half where it was above the threshold.

    The odds of the foreground are divided by t / (1 - t); 0.5 changes nothing.
    """
    background, foreground = logits.unbind(dim=1)
    return torch.stack([background, foreground - math.log(threshold / (1 - threshold))], dim=1)


def image_counts(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True and false positives, false and true negatives of each image.

    Args:
        prediction: Logits [B, 2, H, W] or a mask [B, H, W].
        target: [B, H, W] in {0, 1}, or 255 for pixels to ignore.

    Returns:
        Four int64 tensors [B].

    Raises:
        ValueError: If the sizes differ, or as of :func:`foreground`.
    """
    predicted = foreground(prediction)
    if predicted.shape != target.shape:
        raise ValueError(
            f"Prediction is {tuple(predicted.shape)} but target is {tuple(target.shape)}; bring "
            "them to one size first."
        )
    valid, actual = target != IGNORE, target == 1
    hits = (predicted & actual, predicted & ~actual, ~predicted & actual, ~predicted & ~actual)
    tp, fp, fn, tn = ((hit & valid).flatten(1).sum(dim=1) for hit in hits)
    return tp, fp, fn, tn


def dice_iou(
    tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor, empty_score: float | None = 1.0
) -> tuple[Tensor, Tensor]:
    """Dice 2 TP / (2 TP + FP + FN) and IoU TP / (TP + FP + FN) from counts.

    Where there is neither foreground nor prediction both are ``empty_score``; ``None`` gives nan.
    So does an image of which all pixels are to be ignored, since nothing is known of it.
    """
    union = tp + fp + fn
    empty = torch.where(tn > 0, torch.nan if empty_score is None else empty_score, torch.nan)
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
        thresholds: Probabilities above which a pixel may count as foreground. Of several, all
            figures are those of the one with the highest ``dice``, of equals the first.
    """

    full_state_update = False
    dice_sum: Tensor
    iou_sum: Tensor
    images: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    def __init__(
        self, empty_score: float | None = 1.0, thresholds: Sequence[float] = (0.5,)
    ) -> None:
        super().__init__()
        self.empty_score = empty_score
        self.thresholds = tuple(thresholds)
        zeros = torch.zeros(len(self.thresholds))
        for name in ("dice_sum", "iou_sum"):
            self.add_state(name, zeros.clone(), dist_reduce_fx="sum")
        for name in ("images", "tp", "fp", "fn", "tn"):
            self.add_state(name, zeros.long(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch; arguments as in :func:`image_counts`, a mask for one threshold alone."""
        _check(prediction)
        states = self.tp, self.fp, self.fn, self.tn
        for index, threshold in enumerate(self.thresholds):
            above = shift(prediction, threshold) if prediction.is_floating_point() else prediction
            counts = image_counts(above, target)
            dice, iou = dice_iou(*counts, self.empty_score)
            self.dice_sum[index] += dice.nansum()
            self.iou_sum[index] += iou.nansum()
            self.images[index] += (~dice.isnan()).sum()
            for state, count in zip(states, counts, strict=True):
                state[index] += count.sum()

    def compute(self) -> Scores:
        """The four figures; nan where no image counts."""
        best = self._best()
        pooled = self.tp, self.fp, self.fn, self.tn
        dice_global, iou_global = dice_iou(*pooled, self.empty_score)
        return {
            "dice": (self.dice_sum / self.images)[best],
            "iou": (self.iou_sum / self.images)[best],
            "dice_global": dice_global[best],
            "iou_global": iou_global[best],
        }

    def _best(self) -> int:
        dice = (self.dice_sum / self.images).nan_to_num(-1).tolist()
        return dice.index(max(dice))

    def best_threshold(self) -> float:
        """The threshold that the figures are of."""
        with self.sync_context():  # of all processes, as in compute
            return self.thresholds[self._best()]

    def all_background(self) -> bool:
        """Whether no pixel was predicted as foreground though the images have some."""
        with self.sync_context():
            best = self._best()
            return bool(self.tp[best] + self.fp[best] == 0) and bool(self.fn[best] > 0)
