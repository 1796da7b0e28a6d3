"""Ends and edges of the Dice loss: right, wrong, pooled, ignored, half precision."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.losses import BrierLoss, DiceBCELoss, DiceCELoss, dice_loss


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


@pytest.mark.parametrize("compat", [False, True])
def test_terms_pixel_by_pixel(compat: bool) -> None:
    logits = 3 * torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(2, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    target[0, 1, 2] = 255
    scores, classes = logits.movedim(1, -1).reshape(-1, 2).tolist(), target.flatten().tolist()
    pixels = [(z, g) for z, g in zip(scores, classes, strict=True) if g != 255]
    ce, dice = 0.0, 0.0
    for z, g in pixels:
        ce -= (z[g] - math.log(math.exp(z[0]) + math.exp(z[1]))) / len(pixels)
    for c in (0, 1):
        overlap = squares = 0.0
        for z, g in pixels:
            # The public code takes the logit itself.
            p = z[c] if compat else math.exp(z[c]) / (math.exp(z[0]) + math.exp(z[1]))
            overlap += p * (g == c)
            squares += p**2 + (g == c)
        dice += (1 - (2 * overlap + 1e-5) / (squares + 1e-5)) / 2
    terms = DiceCELoss(compat=compat)(logits, target)
    found = {name: value.item() for name, value in terms.items()}
    assert found == pytest.approx({"loss": ce + 1.5 * dice, "ce": ce, "dice_loss": dice}, rel=1e-5)
    assert not DiceCELoss().compat


def test_raw_logits_are_drawn_to_the_target_itself() -> None:
    target = torch.tensor([[[1, 0], [0, 0]]])
    one_hot = F.one_hot(target, 2).permute(0, 3, 1, 2).float()
    assert dice_loss(one_hot, target, compat=True).item() == pytest.approx(0, abs=1e-6)
    # Surer is worse: with 2 g in the place of g it is 1 - 2 * 2 / (4 + 1).
    assert dice_loss(2 * one_hot, target, compat=True).item() == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"dice_weight": 1.0, "bce_weight": 0.25, "balanced": False, "squared": False}]
)
def test_dice_and_bce_by_loops(options: dict[str, Any]) -> None:
    logits = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(2, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    target[0, 0, 0] = target[1, 2, 1] = 255
    costs: dict[int, list[float]] = {0: [], 1: []}
    dice = 0.0
    for scores, mask in zip(logits, target, strict=True):
        overlap = total = 0.0
        for (zero, one), g in zip(
            scores.flatten(1).T.tolist(), mask.flatten().tolist(), strict=True
        ):
            if g == 255:
                continue
            p = math.exp(one) / (math.exp(zero) + math.exp(one))
            costs[g].append(-math.log(p if g else 1 - p))
            overlap, total = overlap + p * g, total + (p if options else p * p) + g
        dice += (1 - (2 * overlap + 1e-5) / (total + 1e-5)) / 2
    assert len(costs[0]) != len(costs[1])
    if options:
        bce = sum(costs[0] + costs[1]) / len(costs[0] + costs[1])
        loss = dice + 0.25 * bce
    else:
        bce = sum(sum(costs[g]) / len(costs[g]) for g in (0, 1)) / 2
        loss = 0.5 * dice + 0.5 * bce
    terms = DiceBCELoss(**options)(logits, target)
    wanted = {"loss": loss, "bce": bce, "dice_loss": dice}
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(wanted)


def test_dice_and_bce_of_absent_classes() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.long)
    for target in (nothing, nothing + 1, nothing + 255):
        terms = DiceBCELoss()(certain(target % 255).requires_grad_(), target)
        assert terms["loss"].item() == pytest.approx(0, abs=1e-4)
        terms["loss"].backward()
    wrong = DiceBCELoss()(certain(1 - nothing), nothing)
    assert wrong["dice_loss"].item() == pytest.approx(1, abs=1e-4)
    assert wrong["bce"].item() == pytest.approx(0.5 * 200)


def test_dice_and_bce_ignore_and_stay_finite_in_half_precision() -> None:
    # 256 * 256 pixels of probability one: their number alone is beyond float16.
    logits = torch.randn(1, 2, 256, 512, generator=torch.Generator().manual_seed(0)) * 100
    logits[:, 1] += 1000
    target = torch.ones(1, 256, 512, dtype=torch.long)
    target[..., 256:] = 255
    half = logits.half().requires_grad_()
    terms = DiceBCELoss()(half, target)
    left = DiceBCELoss()(logits.half().float()[..., :256], target[..., :256])
    for key, value in left.items():
        torch.testing.assert_close(terms[key], value)
    assert terms["dice_loss"].item() == pytest.approx(0, abs=1e-5)
    terms["loss"].backward()
    assert half.grad is not None
    assert half.grad[..., 256:].abs().max() == 0
    assert torch.isfinite(half.grad).all()


def test_brier_loss_by_hand() -> None:
    target = torch.tensor([[[1, 0, 0, 255]]])
    score = torch.tensor([0.8, 0.5, 0.1, 0.9]).logit().view(1, 1, 4)
    logits = torch.stack([torch.zeros_like(score), score], dim=1)
    terms = BrierLoss(weight=10.0)(logits, target)
    wanted = (0.2**2 + 0.5**2 + 0.1**2) / 3
    assert terms["brier"].item() == pytest.approx(wanted)
    assert terms["loss"].item() == pytest.approx(10 * wanted)
    nothing = BrierLoss()(logits, torch.full_like(target, 255))
    assert nothing["loss"].item() == 0
