"""Predictions over the turns of an image."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lcpdn_pl.data.transforms import turn, variants
from lcpdn_pl.tasks.turns import mean_over_turns

NUCLEI = "The nuclei density in the upper left is high."
LUNG = "Unilateral pulmonary infection, upper left lung."


@pytest.mark.parametrize(
    ("report", "count"), [(NUCLEI, 8), (LUNG, 2), ("Infection of the left apex.", 1)]
)
def test_each_turn_comes_with_its_report_and_is_turned_back(report: str, count: int) -> None:
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    pixels = image[0].permute(1, 2, 0).numpy()
    expected = [turn(variant, pixels, pixels[..., 0], report) for variant in variants(report)]
    seen = []

    def forward(turned: Tensor, reports: Sequence[str]) -> Tensor:
        seen.append((turned[0].permute(1, 2, 0).numpy().tolist(), *reports))
        score = turned[:, :1].float() / 10
        return torch.cat([-score, score], dim=1)

    logits = mean_over_turns(forward, image, report)
    assert seen == [(one[0].tolist(), one[2]) for one in expected]
    assert len(seen) == count
    # What depends on a pixel alone is the same in every turn, once it is turned back.
    torch.testing.assert_close(logits.softmax(1), forward(image, [report]).softmax(1))


def test_probabilities_are_averaged_not_logits() -> None:
    answers = iter([torch.tensor([0.0, 200.0]), torch.tensor([0.0, -2.0])])

    def forward(_image: Tensor, _reports: Sequence[str]) -> Tensor:
        return next(answers).reshape(1, 2, 1, 1)

    logits = mean_over_turns(forward, torch.zeros(1, 3, 1, 1), LUNG)
    share = (1 + torch.sigmoid(torch.tensor(-2.0))) / 2
    torch.testing.assert_close(logits.softmax(1)[0, 1, 0, 0], share)
    assert logits.isfinite().all()
