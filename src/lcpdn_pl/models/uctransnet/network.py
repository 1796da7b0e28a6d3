"""UCTransNet: a U-Net whose skips exchange channels through a transformer."""

import math
from collections.abc import Sequence

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.lvit_family import (
    PATCHES,
    ConvEncoder,
    TokenEmbedding,
    TokenMap,
    check_image_size,
    count_tokens,
    decoder_levels,
    level_widths,
)


class ChannelAttention(nn.Module):
    """Attention of each level's channels to the channels of all levels.

    With X_i [N, C_i] the tokens of level i, X [N, C] all levels side by side, C = sum C_i, and each
    head having weights of its own:

    - Q_i = X_i W_Qi, K = X W_K, V = X W_V
    - A_i = softmax(norm(Q_i^T K / sqrt(C))) over the C channels, norm the instance norm of a map
    - Y_i = mean over heads of (A_i V^T)^T, times W_Oi

    Args:
        widths: Widths C_i.
        heads: Attention heads, each of full width.
        dropout: Rate of A_i and of Y_i.
    """

    def __init__(self, widths: Sequence[int], heads: int, dropout: float) -> None:
        super().__init__()
        total = sum(widths)
        self.heads = heads
        self.queries = nn.ModuleList(nn.Linear(c, heads * c, bias=False) for c in widths)
        self.key = nn.Linear(total, heads * total, bias=False)
        self.value = nn.Linear(total, heads * total, bias=False)
        self.norm = nn.InstanceNorm2d(heads)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.ModuleList(nn.Linear(c, c, bias=False) for c in widths)

    def forward(self, levels: Sequence[Tensor], joined: Tensor) -> list[Tensor]:
        """Attends.

        Args:
            levels: X_i [B, N, C_i].
            joined: X [B, N, C].

        Returns:
            Y_i [B, N, C_i].
        """
        key, value = (self._by_head(part(joined)) for part in (self.key, self.value))
        attended: list[Tensor] = []
        for tokens, query, project in zip(levels, self.queries, self.project, strict=True):
            scores = self._by_head(query(tokens)) @ key.transpose(-1, -2)
            scores = self.norm(scores / math.sqrt(joined.shape[-1]))
            context = self.dropout(scores.softmax(dim=-1)) @ value
            attended.append(self.dropout(project(context.mean(dim=1).transpose(1, 2))))
        return attended

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, N, heads * C] to [B, heads, C, N]."""
        maps: Tensor = tokens.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)
        return maps


class ChannelTransformerLayer(nn.Module):
    """:class:`ChannelAttention`, then an MLP a level; both after layer norms, with residuals.

    Args:
        widths: Widths C_i.
        heads: Attention heads.
        dropout: Rate in the attention.
    """

    def __init__(self, widths: Sequence[int], heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        self.norm_joined = nn.LayerNorm(sum(widths))
        self.attention = ChannelAttention(widths, heads, dropout)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
            for c in widths
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """[B, N, C_i] to [B, N, C_i]."""
        normed = [norm(tokens) for norm, tokens in zip(self.norms, levels, strict=True)]
        attended = self.attention(normed, self.norm_joined(torch.cat(list(levels), dim=-1)))
        sums = [tokens + change for tokens, change in zip(levels, attended, strict=True)]
        return [tokens + mlp(tokens) for mlp, tokens in zip(self.mlps, sums, strict=True)]


class ChannelGate(nn.Module):
    """Weighs a skip's channels by what skip and decoder hold on average (CCA).

    s' = ReLU(s * sigmoid((W_s mean(s) + b_s + W_d mean(d) + b_d) / 2)), means over positions.

    Args:
        width: Channels C of skip and decoder map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip = nn.Linear(width, width)
        self.decoder = nn.Linear(width, width)

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        """Skip s [B, C, H, W] and decoder map d [B, C, h, w] to s' [B, C, H, W]."""
        weight = self.skip(skip.mean(dim=(2, 3))) + self.decoder(decoder.mean(dim=(2, 3)))
        gate = torch.sigmoid(weight / 2)[:, :, None, None]
        return F.relu(skip * gate)


class UCTransNet(Network):
    """UCTransNet (Wang et al., AAAI 2022); reads no report.

    Args:
        image_size: Side of the images; fixed, since positions are learned.
        width: Channels w of the first level; the skips have w, 2w, 4w and 8w.
        layers: Layers of the channel transformer.
        heads: Its attention heads.
        dropout: Rate at the tokens and in the attention.

    Raises:
        ConfigError: If the image size is no multiple of 16; in ``forward``, for images of another
            size.
    """

    def __init__(
        self,
        image_size: PositiveInt = 224,
        width: PositiveInt = 64,
        layers: PositiveInt = 4,
        heads: PositiveInt = 4,
        dropout: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        widths, tokens = level_widths(width), count_tokens(image_size)
        self.encoder = ConvEncoder(width)
        self.embed = nn.ModuleList(
            TokenEmbedding(c, patch, tokens, dropout)
            for c, patch in zip(widths, PATCHES, strict=True)
        )
        self.transformer = nn.Sequential(
            *(ChannelTransformerLayer(widths, heads, dropout) for _ in range(layers))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        self.maps = nn.ModuleList(TokenMap(c) for c in widths)
        self.gates = nn.ModuleList(ChannelGate(c) for c in reversed(widths))
        self.decoder = decoder_levels(width)
        self.classify = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:  # noqa: ARG002 - reads none
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        check_image_size(image, self.image_size, "uctransnet")
        skips, hidden = self.encoder(image)
        levels = [embed(skip) for embed, skip in zip(self.embed, skips, strict=True)]
        levels = self.transformer(levels)
        skips = [
            to_map(norm(tokens), skip)
            for to_map, norm, tokens, skip in zip(self.maps, self.norms, levels, skips, strict=True)
        ]
        for level, gate, skip in zip(self.decoder, self.gates, reversed(skips), strict=True):
            hidden = level(hidden, gate(skip, hidden))
        return foreground_logits(self.classify(hidden))
