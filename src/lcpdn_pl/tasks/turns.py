"""A test image in every position that its report can follow."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lcpdn_pl.data.reports import Transform, rewrite_sides
from lcpdn_pl.data.transforms import variants

_MOVES: dict[Transform, Callable[[Tensor], Tensor]] = {
    "hflip": lambda image: image.flip(-1),
    "vflip": lambda image: image.flip(-2),
    "rot90": lambda image: image.rot90(1, (-2, -1)),
    "rot180": lambda image: image.rot90(2, (-2, -1)),
    "rot270": lambda image: image.rot90(3, (-2, -1)),
    "transpose": lambda image: image.mT,
}
_UNDONE_BY: dict[Transform, Transform] = {"rot90": "rot270", "rot270": "rot90"}


def mean_over_turns(
    forward: Callable[[Tensor, Sequence[str]], Tensor],
    image: Tensor,
    report: str,
    turns: bool = True,
) -> Tensor:
    """Segments an image in each of its report's :func:`lcpdn_pl.data.transforms.variants`.

    Up to eight flips and quarter turns are predicted, each with the report that is true of it, and
    turned back. A chest is only mirrored; a report that is not understood leaves the image as it
    is.

    Args:
        forward: From images [1, 3, S, S] and reports to logits [1, 2, S, S].
        image: [1, 3, S, S].
        report: The image's report.
        turns: Whether such images have no up and down; of others only the mirror image counts.

    Returns:
        Logarithms of the mean probabilities [1, 2, S, S], which are logits of it.
    """
    found = []
    for variant in variants(report, turns):
        turned, text = image, report
        for transform in variant:
            turned, text = _MOVES[transform](turned), rewrite_sides(text, transform)
        probability = forward(turned.contiguous(), [text]).float().softmax(dim=1)
        for transform in reversed(variant):
            probability = _MOVES[_UNDONE_BY.get(transform, transform)](probability)
        found.append(probability)
    mean = torch.stack(found).mean(dim=0)
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
