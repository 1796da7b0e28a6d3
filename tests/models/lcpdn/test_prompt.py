"""What the prompt does not depend on, and where its gradient starts."""

import pytest
import torch
from torch import Tensor

from lcpdn_pl.models.lcpdn.prompt import TextVisionPrompt

VALID = torch.tensor([[True, True, True, False], [True] * 4])


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    report = torch.randn(2, 4, 6, generator=generator)
    return report, torch.randn(2, 5, 7, generator=generator)


def prompt(zero_init: bool) -> TextVisionPrompt:
    torch.manual_seed(0)
    return TextVisionPrompt(6, 7, 4, 3, zero_init=zero_init)


def test_order_of_tokens_and_length_of_padding_do_not_matter(
    inputs: tuple[Tensor, Tensor],
) -> None:
    report, image = inputs
    module = prompt(zero_init=False)
    wanted = module(report, VALID, image)
    assert wanted.shape == (2, 3)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = module(report[:, order], VALID[:, order], image.flip(1))
    torch.testing.assert_close(shuffled, wanted)
    alone = module(report[:1, :3], VALID[:1, :3], image[:1])
    torch.testing.assert_close(alone, wanted[:1])
    assert (module(report, torch.ones_like(VALID), image)[0] - wanted[0]).abs().max() > 1e-3


def test_zero_start_trains_the_projection_first(inputs: tuple[Tensor, Tensor]) -> None:
    module = prompt(zero_init=True)
    module(inputs[0], VALID, inputs[1]).sum().backward()
    moved = {
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    assert moved == {"project.weight", "project.bias"}
