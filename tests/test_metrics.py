"""The score against hand-made cases, scikit-learn and torchmetrics."""

import math

import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex

from lcpdn_pl.losses import DiceCELoss, dice_loss
from lcpdn_pl.metrics import THRESHOLDS, SegmentationScore, image_counts, shift


def masks(seed: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 8, 8, generator=generator) > 0.6).long()


def scores(score: SegmentationScore) -> dict[str, float]:
    return {name: float(value) for name, value in score.compute().items()}  # type: ignore[arg-type]


def test_against_references_in_uneven_batches() -> None:
    predicted, target = masks(0), masks(1)
    score = SegmentationScore()
    score.update(predicted[:2], target[:2])
    score.update(predicted[2:], target[2:])
    pairs = list(zip(predicted.flatten(1), target.flatten(1), strict=True))
    found = scores(score)
    assert found["dice"] == pytest.approx(sum(f1_score(t, p) for p, t in pairs) / 5)
    assert found["iou"] == pytest.approx(sum(jaccard_score(t, p) for p, t in pairs) / 5)
    assert found["dice_global"] == pytest.approx(BinaryF1Score()(predicted, target).item())
    assert found["iou_global"] == pytest.approx(BinaryJaccardIndex()(predicted, target).item())


@pytest.mark.parametrize(
    ("empty_score", "dice"), [(1.0, (1 + 2 / 3 + 1) / 3), (0.0, (1 + 2 / 3) / 3), (None, 5 / 6)]
)
def test_perfect_partial_and_empty(empty_score: float | None, dice: float) -> None:
    target = torch.tensor([[[1, 1]], [[1, 0]], [[0, 0]]])
    predicted = torch.tensor([[[1, 1]], [[1, 1]], [[0, 0]]])
    score = SegmentationScore(empty_score)
    score.update(predicted, target)
    assert scores(score)["dice"] == pytest.approx(dice)
    assert scores(score)["dice_global"] == pytest.approx(6 / 7)
    assert scores(score)["iou_global"] == pytest.approx(3 / 4)


def test_only_empty_images() -> None:
    nothing = torch.zeros(2, 3, 3, dtype=torch.long)
    for empty_score, expected in ((1.0, 1.0), (0.0, 0.0)):
        score = SegmentationScore(empty_score)
        score.update(nothing, nothing)
        assert set(scores(score).values()) == {expected}
    score = SegmentationScore(None)
    score.update(nothing, nothing)
    assert all(math.isnan(value) for value in scores(score).values())


def test_false_alarm_on_an_empty_mask_scores_zero() -> None:
    score = SegmentationScore()
    score.update(torch.ones(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    assert set(scores(score).values()) == {0.0}


def test_ignored_pixels_and_logits() -> None:
    target = torch.tensor([[[1, 0, 255, 255]]])
    logits = torch.tensor([[[[0.0, 1, 0, 1]], [[1.0, 0, 1, 0]]]])
    score = SegmentationScore()
    score.update(logits, target)
    assert set(scores(score).values()) == {1.0}


def test_an_image_of_which_nothing_is_known_does_not_count() -> None:
    target = torch.full((2, 4, 4), 255)
    target[1, 0, 0] = 1
    prediction = torch.ones(2, 4, 4, dtype=torch.long)
    score = SegmentationScore()
    score.update(prediction, target)
    assert scores(score)["dice"] == 1
    assert score.images.tolist() == [1]
    score.reset()
    score.update(prediction[:1], target[:1])
    assert all(math.isnan(value) for value in scores(score).values())


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(1, 4, 4), r"is \(1, 4, 4\) of torch.float32: expected logits \[B, 2, H, W\]"),
        (torch.zeros(1, 3, 4, 4), r"is \(1, 3, 4, 4\)"),
        (torch.full((1, 4, 4), 255), "has the value 255: expected a mask of 0 and 1"),
    ],
)
def test_predictions_are_logits_or_masks(prediction: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationScore().update(prediction, torch.zeros(1, 4, 4, dtype=torch.long))


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) but target is \(1, 3, 3\)"):
        SegmentationScore().update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 3, 3).long())


def test_dice_loss_against_a_loop() -> None:
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = masks(2, 2)[:, :4, :4].clone()
    target[0, 0] = 255
    probability = logits.softmax(dim=1)
    total = 0.0
    for c in range(2):
        overlap = squares = 0.0
        for b in range(2):
            for i in range(4):
                for j in range(4):
                    if target[b, i, j] == 255:
                        continue
                    p, g = float(probability[b, c, i, j]), float(target[b, i, j] == c)
                    overlap += p * g
                    squares += p * p + g * g
        total += (1 - (2 * overlap + 1e-5) / (squares + 1e-5)) / 2
    assert dice_loss(logits, target).item() == pytest.approx(total, rel=1e-4)
    terms = DiceCELoss(1.5)(logits, target)
    ce = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(terms["ce"], ce)
    torch.testing.assert_close(terms["loss"], ce + 1.5 * terms["dice_loss"])


def test_nothing_to_learn_costs_a_finite_loss() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    terms = DiceCELoss()(logits, torch.full((1, 4, 4), 255))
    terms["loss"].backward()
    assert terms["loss"].isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [4, 1]])
def test_batch_sizes_do_not_matter(sizes: list[int]) -> None:
    predicted, target = masks(0), masks(1)
    target[0, :4] = 255
    score, single = SegmentationScore(), []
    for part, truth in zip(predicted.split(sizes), target.split(sizes), strict=True):
        score.update(part, truth)
    for mask, truth in zip(predicted, target, strict=True):
        known = truth != 255
        single.append(f1_score(truth[known], mask[known]))
    found = scores(score)
    assert found["dice"] == pytest.approx(sum(single) / 5)
    known = target != 255
    assert found["dice_global"] == pytest.approx(f1_score(target[known], predicted[known]))
    assert found["iou_global"] == pytest.approx(jaccard_score(target[known], predicted[known]))
    score.reset()
    score.update(target[1:2], target[1:2])
    assert set(scores(score).values()) == {1.0}


def test_logits_and_masks_score_alike() -> None:
    predicted, target = masks(0), masks(1)
    logits = torch.stack([-predicted.float(), predicted.float() - 0.5], dim=1)
    found = []
    for prediction in (logits, predicted, predicted.bool(), predicted.to(torch.uint8)):
        score = SegmentationScore()
        score.update(prediction, target)
        found.append(scores(score))
    assert all(other == found[0] for other in found)


def test_shifted_logits_are_foreground_above_the_threshold() -> None:
    logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    probability = logits.softmax(dim=1)[:, 1]
    assert torch.equal(shift(logits, 0.5), logits)
    for threshold in (0.05, 0.3, 0.8):
        above = shift(logits, threshold)
        assert torch.equal(above.argmax(dim=1) == 1, probability > threshold)
        odds = above.softmax(dim=1)[:, 1].logit().exp() * threshold / (1 - threshold)
        torch.testing.assert_close(odds, probability.logit().exp(), rtol=1e-4, atol=0)


def test_of_several_thresholds_the_figures_are_of_the_best() -> None:
    assert THRESHOLDS[0] == 0.5
    assert sorted(THRESHOLDS) == pytest.approx([k / 20 for k in range(1, 20)])
    logits = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    target = (logits.softmax(dim=1)[:, 1] > 0.7).long() ^ (masks(2, 4) & masks(3, 4))
    several, singles = SegmentationScore(thresholds=THRESHOLDS), {}
    for part in (slice(0, 1), slice(1, 4)):
        several.update(logits[part], target[part])
    for threshold in THRESHOLDS:
        single = SegmentationScore(thresholds=(threshold,))
        single.update(logits, target)
        singles[threshold] = scores(single)
        plain = SegmentationScore()
        plain.update((logits.softmax(dim=1)[:, 1] > threshold).long(), target)
        assert scores(plain) == pytest.approx(singles[threshold])
    best = max(singles, key=lambda threshold: singles[threshold]["dice"])
    assert several.best_threshold() == best != 0.5
    assert scores(several) == pytest.approx(singles[best])


def test_of_equal_thresholds_the_one_next_to_the_middle_is_taken() -> None:
    score = SegmentationScore(thresholds=THRESHOLDS)
    score.update(torch.full((1, 2, 2, 2), 0.0), torch.zeros(1, 2, 2).long())
    assert score.best_threshold() == 0.5
    score.update(torch.tensor([[[[0.0, 0]], [[9, -9]]]]), torch.tensor([[[1, 0]]]))
    assert score.best_threshold() == 0.5


def test_all_background_is_that_of_the_best_threshold() -> None:
    score = SegmentationScore(thresholds=(0.9, 0.2))
    logits, target = torch.tensor([[[[0.0, 0]], [[0.0, -9]]]]), torch.tensor([[[1, 0]]])
    assert image_counts(shift(logits, 0.9), target)[0] == 0
    score.update(logits, target)
    assert not score.all_background()
    assert scores(score)["dice"] == 1
