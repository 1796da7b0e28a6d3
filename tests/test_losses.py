"""Ends and edges of the Dice loss: right, wrong, pooled, ignored, half precision."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.losses import DiceCELoss, dice_loss


def certain(mask: Tensor) -> Tensor:
    """Logits that leave no doubt."""
    return F.one_hot(mask, 2).permute(0, 3, 1, 2).float() * 200 - 100


def test_right_costs_nothing_and_wrong_costs_one() -> None:
    target = torch.tensor([[[1, 0], [0, 0]]])
    assert dice_loss(certain(target), target).item() == pytest.approx(0, abs=1e-5)
    assert dice_loss(certain(1 - target), target).item() == pytest.approx(1, abs=1e-4)
    nothing = torch.zeros_like(target)
    assert dice_loss(certain(nothing), nothing).item() == pytest.approx(0, abs=1e-5)


def test_pixels_of_the_batch_are_pooled() -> None:
    target = torch.tensor([[[1, 1, 1]], [[1, 0, 0]]])
    predicted = torch.tensor([[[1, 1, 1]], [[0, 0, 0]]])
    foreground, background = 2 * 3 / (3 + 4), 2 * 2 / (3 + 2)
    wanted = 1 - (foreground + background) / 2
    assert dice_loss(certain(predicted), target).item() == pytest.approx(wanted, abs=1e-4)


def test_ignored_pixels_have_neither_weight_nor_gradient() -> None:
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (logits[:, 0] > 0).long()
    cut = {
        key: value.item() for key, value in DiceCELoss()(logits[..., :3], target[..., :3]).items()
    }
    target[..., 3] = 255
    whole = logits.clone().requires_grad_()
    terms = DiceCELoss()(whole, target)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(cut)
    terms["loss"].backward()
    assert whole.grad is not None
    assert whole.grad[..., 3].abs().max() == 0
    assert whole.grad[..., :3].abs().min() > 0


def test_weight_of_the_dice_term() -> None:
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(2, (1, 4, 4), generator=torch.Generator().manual_seed(1))
    light, heavy = DiceCELoss(0)(logits, target), DiceCELoss(4)(logits, target)
    torch.testing.assert_close(light["loss"], F.cross_entropy(logits, target))
    torch.testing.assert_close(heavy["loss"] - light["loss"], 4 * dice_loss(logits, target))
    assert DiceCELoss().dice_weight == 1.5


def test_half_precision_does_not_overflow() -> None:
    # 2 * 256 * 256 pixels of one class: their number alone is beyond float16.
    target = torch.zeros(2, 256, 256, dtype=torch.long)
    assert dice_loss(certain(target).half(), target).item() == pytest.approx(0, abs=1e-5)
