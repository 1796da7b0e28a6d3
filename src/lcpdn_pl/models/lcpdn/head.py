"""From the fused scales to logits (eq. 11)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.blocks import InstanceConvPair, PixelClassifier


class ConcatHead(nn.Module):
    """All scales, concatenated at the finest one's size, are classified by pixel (the paper).

    Args:
        width: Channels h of each scale.
        scales: Number of scales.
        hidden: Hidden channels of the classifier.
    """

    def __init__(self, width: int, scales: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.classify = PixelClassifier(width * scales, hidden)

    def forward(self, scales: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Classifies.

        Args:
            scales: H_k [B, h, H_k, W_k] of each scale.
            size: Height and width of the logits.

        Returns:
            Logits [B, 2, *size], enlarged where the finest scale is coarser.
        """
        finest = max(list(scale.shape[-2:]) for scale in scales)
        hidden = torch.cat([_resized(scale, finest) for scale in scales], dim=1)
        return _resized(self.classify(hidden), size)


class PyramidHead(nn.Module):
    """The scales join from coarse to fine, as in a U-Net's decoder.

    What came out of the coarser levels, C, is enlarged to the size of the next one, and two
    convolutions mix it with all scales H_k of that level, C <- conv(conv([C; H_k; ...])); the last
    C is classified. It sees further than :class:`ConcatHead`, and most of its work is done at small
    sizes.

    Args:
        width: Channels h of each scale.
        strides: Pixels that a position of each scale stands for; scales of one stride are a level.
        hidden: Channels of C at each level, from the finest to the coarsest.

    Raises:
        ConfigError: If ``hidden`` has another length than there are levels.
    """

    def __init__(self, width: int, strides: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        levels = sorted(set(strides), reverse=True)
        if len(hidden) != len(levels):
            raise ConfigError(
                f"head_widths={list(hidden)} must have one width for each level of the pyramid; "
                f"there are {len(levels)}, of strides {levels[::-1]}."
            )
        self.levels = [[k for k, s in enumerate(strides) if s == stride] for stride in levels]
        self.mix = nn.ModuleList()
        before = 0
        for level, after in zip(self.levels, reversed(hidden), strict=True):
            self.mix.append(InstanceConvPair(before + width * len(level), after))
            before = after
        self.classify = nn.Conv2d(before, 2, 1)

    def forward(self, scales: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """See :meth:`ConcatHead.forward`."""
        mixed: list[Tensor] = []
        for level, mix in zip(self.levels, self.mix, strict=True):
            here = [scales[index] for index in level]
            side = max(list(scale.shape[-2:]) for scale in here)
            parts = [_resized(part, side) for part in (*mixed, *here)]
            mixed = [mix(torch.cat(parts, dim=1))]
        return _resized(self.classify(mixed[0]), size)


def _resized(scale: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(scale, list(size), mode="bilinear")
