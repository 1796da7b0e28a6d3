"""Losses of the segmentation tasks: each returns its terms by name, the total as ``loss``."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.metrics import IGNORE


def dice_loss(logits: Tensor, target: Tensor, eps: float = 1e-5) -> Tensor:
    """Soft Dice loss with squared denominator, mean over the two classes.

    1 - (2 sum(p g) + eps) / (sum(p^2) + sum(g^2) + eps) with p the softmax probability and g the
    one-hot target, both over all pixels of the batch (Milletari et al., "V-Net", 3DV 2016).

    Args:
        logits: [B, 2, H, W].
        target: [B, H, W] in {0, 1}, or 255 for pixels to ignore.
        eps: Keeps an absent class at a loss near zero.
    """
    valid = (target != IGNORE).unsqueeze(1)
    # In full precision: a sum over all pixels overflows float16.
    probability = torch.softmax(logits.float(), dim=1) * valid
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
    """

    def __init__(self, dice_weight: float = 1.5) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss``, ``ce`` and ``dice_loss``; see :meth:`SegmentationLoss.forward`."""
        # Clamped, so that a batch in which every pixel is ignored costs nothing instead of nan.
        valid = (target != IGNORE).sum().clamp(min=1)
        ce = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / valid
        dice = dice_loss(logits, target)
        return {"loss": ce + self.dice_weight * dice, "ce": ce, "dice_loss": dice}
