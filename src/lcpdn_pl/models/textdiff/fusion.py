"""TextDiff's trained part: multi-scale cross-attention to the report, and a pixel classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.models.blocks import ConvNormReLU

HEADS = 8
"""Attention heads."""
HEAD_WIDTH = 64
"""Width of a head; all together are 512 wide, whatever the features are."""


class TextAttention(nn.Module):
    """Cross-attention of positions x to report tokens T.

    A(x, T) = LN(W_O [softmax(Q_h K_h^T / sqrt(64)) V_h]_h + b_O), with Q = LN(x) W_Q, K = T W_K
    and V = T W_V in heads h.

    Args:
        width: Width of a position.
        text_width: Width of a report token.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(text_width, inner, bias=False)
        self.value = nn.Linear(text_width, inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.LayerNorm(width))

    def forward(self, positions: Tensor, report: Tensor) -> Tensor:
        """Attends to every token.

        Args:
            positions: x [B, P, width].
            report: T [B, N, text_width].

        Returns:
            A(x, T) [B, P, width].
        """
        query, key, value = (
            part.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)
            for part in (self.query(self.norm(positions)), self.key(report), self.value(report))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class TextFusion(nn.Module):
    """Fuses the features of one scale with the report.

    x1 = x + A_1(x, T), x2 = x1 + A_2(x1, T), y = x2 + GELU(LN(x2)) W + b. In the public code A_1
    stands where self-attention usually does, but it attends to the report too.

    Args:
        width: Width of a position.
        text_width: Width of a report token.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(TextAttention(width, text_width) for _ in range(2))
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))

    def forward(self, scale: Tensor, report: Tensor) -> Tensor:
        """Fuses one scale.

        Args:
            scale: [B, width, H, W].
            report: T [B, N, text_width].

        Returns:
            [B, width, H, W].
        """
        positions = scale.flatten(2).transpose(1, 2)
        for attention in self.attentions:
            positions = positions + attention(positions, report)
        positions = positions + self.feed_forward(positions)
        result: Tensor = positions.transpose(1, 2).unflatten(2, scale.shape[-2:])
        return result


class TextDiffHead(nn.Module):
    """All of TextDiff that is trained: diffusion features and report tokens in, logits out.

    A 1x1 convolution brings each scale to one width; scales that have it already pass. The first
    scale has a convolution of its own, later scales share one where their channels are equal. One
    :class:`TextFusion` serves all scales. Its outputs are upsampled to the image, concatenated and
    classified by 3x3 convolutions with batch norm.

    Convolutions and linear layers start from normal(0, 0.02) with biases of zero.

    Args:
        channels: Channels of each scale.
        text_width: Width of a report token.
        width: Width that every scale is brought to.
        head_widths: Hidden channels of the pixel classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        text_width: int,
        width: int = 768,
        head_widths: tuple[int, int] = (128, 32),
    ) -> None:
        super().__init__()
        first, *later = channels
        self.project_first = _projection(first, width)
        self.project_later = nn.ModuleDict({str(c): _projection(c, width) for c in later})
        self.fusion = TextFusion(width, text_width)
        self.classify = nn.Sequential(
            *ConvNormReLU(width * len(channels), head_widths[0]),
            *ConvNormReLU(head_widths[0], head_widths[1]),
            nn.Conv2d(head_widths[1], 2, 3, padding=1),
        )
        self.apply(_initialise)

    def forward(self, scales: Sequence[Tensor], report: Tensor, size: Sequence[int]) -> Tensor:
        """Segments from features.

        Args:
            scales: One tensor [B, channels_k, H_k, W_k] a scale.
            report: Report tokens [B, N, text_width]; every one of them is attended to.
            size: Height and width of the logits.

        Returns:
            Logits [B, 2, *size].
        """
        first, *later = scales
        projected = [
            self.project_first(first),
            *(self.project_later[str(scale.shape[1])](scale) for scale in later),
        ]
        fused = [self.fusion(scale, report) for scale in projected]
        logits: Tensor = self.classify(
            torch.cat(
                [F.interpolate(scale, tuple(size), mode="bilinear") for scale in fused], dim=1
            )
        )
        return logits


def _projection(channels: int, width: int) -> nn.Module:
    return nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
