"""Losses of the segmentation tasks: each returns its terms by name, the total as ``loss``."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.metrics import IGNORE


def dice_loss(logits: Tensor, target: Tensor, eps: float = 1e-5, compat: bool = False) -> Tensor:
    """Soft Dice loss with squared denominator, mean over the two classes.

    1 - (2 sum(p g) + eps) / (sum(p^2) + sum(g^2) + eps) with p the softmax probability and g the
    one-hot target, both over all pixels of the batch (Milletari et al., "V-Net", 3DV 2016).

    Args:
        logits: [B, 2, H, W].
        target: [B, H, W] in {0, 1}, or 255 for pixels to ignore.
        eps: Keeps an absent class at a loss near zero.
        compat: Put the raw logits z in the place of p, as TextDiff's public code does:
            1 - (2 sum(z g) + eps) / (sum(z^2) + sum(g^2) + eps). It is least where z is g itself,
            a probability of no more than 0.73.
    """
    valid = (target != IGNORE).unsqueeze(1)
    # In full precision: a sum over all pixels overflows float16.
    logits = logits.float()
    probability = (logits if compat else torch.softmax(logits, dim=1)) * valid
    one_hot = torch.stack([target == 0, target == 1], dim=1).float()
    dims = (0, 2, 3)
    overlap = (probability * one_hot).sum(dims)
    total = probability.square().sum(dims) + one_hot.sum(dims)
    return (1 - (2 * overlap + eps) / (total + eps)).mean()


class SegmentationLoss(nn.Module):
    """A loss of logits and masks."""

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns the loss's terms by name and their total as ``loss``.

        Args:
            logits: [B, 2, H, W].
            target: [B, H, W] in {0, 1}, or 255 for pixels to ignore.
        """


class DiceCELoss(SegmentationLoss):
    """Cross-entropy plus weighted Dice loss, LCPDN's training loss.

    Args:
        dice_weight: Weight of the Dice term; 1.5 in the paper.
        compat: Compute the Dice term on raw logits, as TextDiff's public code does; false computes
            it on probabilities.
    """

    def __init__(self, dice_weight: float = 1.5, compat: bool = False) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.compat = compat

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss``, ``ce`` and ``dice_loss``; see :meth:`SegmentationLoss.forward`."""
        # Clamped, so that a batch in which every pixel is ignored costs nothing instead of nan.
        valid = (target != IGNORE).sum().clamp(min=1)
        ce = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / valid
        dice = dice_loss(logits, target, compat=self.compat)
        return {"loss": ce + self.dice_weight * dice, "ce": ce, "dice_loss": dice}


class BrierLoss(SegmentationLoss):
    """Squared error of the probability p, weight times mean (p - g)^2 with g the mask.

    Brier, "Verification of forecasts expressed in terms of probability", 1950. With a weight of 10
    it is how MedSegDiff trains its calibration mask.

    Args:
        weight: Of the loss.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss`` and ``brier``; see :meth:`SegmentationLoss.forward`."""
        valid = target != IGNORE
        error = (logits.float().softmax(dim=1)[:, 1] - (target == 1).float()).square()
        # Clamped, so that a batch in which every pixel is ignored costs nothing instead of nan.
        brier = (error * valid).sum() / valid.sum().clamp(min=1)
        return {"loss": self.weight * brier, "brier": brier}


class DiceBCELoss(SegmentationLoss):
    """Dice loss and cross-entropy of the foreground; by default the loss of LViT's family.

    With z = z_1 - z_0 the difference of the logits, p = sigmoid(z) and g the mask:

    - Dice = 1 - (2 sum(p g) + eps) / (sum(p^2) + sum(g^2) + eps) of each image, mean over images
    - BCE = 0.5 mean(-log p) over the batch's foreground + 0.5 mean(-log(1 - p)) over its
      background; over a class that is absent the mean is 0

    Args:
        dice_weight: Weight of the Dice term.
        bce_weight: Weight of the cross-entropy.
        balanced: Give both classes half of the cross-entropy; false takes the mean over all pixels.
        squared: Square p and g in the Dice term's denominator; false takes them as they are.
        eps: Keeps an image without foreground at a Dice loss near zero.
    """

    def __init__(
        self,
        dice_weight: float = 0.5,
        bce_weight: float = 0.5,
        balanced: bool = True,
        squared: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.bce_weight = bce_weight
        self.balanced = balanced
        self.squared = squared
        self.eps = eps

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss``, ``bce`` and ``dice_loss``; see :meth:`SegmentationLoss.forward`."""
        # In full precision: a sum over all pixels overflows float16.
        background_logit, score = logits.float().unbind(dim=1)
        score = score - background_logit
        foreground, background = (target == 1).float(), (target == 0).float()
        costs = (foreground * F.softplus(-score)).sum(), (background * F.softplus(score)).sum()
        areas = foreground.sum(), background.sum()
        if self.balanced:
            bce = 0.5 * (costs[0] / areas[0].clamp(min=1) + costs[1] / areas[1].clamp(min=1))
        else:
            bce = (costs[0] + costs[1]) / (areas[0] + areas[1]).clamp(min=1)
        probability = torch.sigmoid(score) * (target != IGNORE)
        dims = (1, 2)
        overlap = (probability * foreground).sum(dims)
        area = probability.square() if self.squared else probability
        total = area.sum(dims) + foreground.sum(dims)
        dice = (1 - (2 * overlap + self.eps) / (total + self.eps)).mean()
        loss = self.dice_weight * dice + self.bce_weight * bce
        return {"loss": loss, "bce": bce, "dice_loss": dice}
