"""The parts of LViT's family, which is LViT, C2FVL, UCTransNet and RecLMIS.

All of them have the same U-Net of batch-normalised convolutions. RecLMIS makes tokens of its lowest
map, the others of its four skips, which are cut into the same number of patches, a token each.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.blocks import ConvNormReLU, ConvPair

PATCHES = (16, 8, 4, 2)
"""Side of a patch on each skip, from the image's size down: the same places at every level."""


def level_widths(width: int) -> list[int]:
    """Channels of the four skips: w, 2w, 4w and 8w."""
    return [width * 2**level for level in range(len(PATCHES))]


def count_tokens(image_size: int) -> int:
    """Number of tokens of a level; 196 for 224 pixels.

    Raises:
        ConfigError: If the side is no multiple of 16; tells one that is.
    """
    count, rest = divmod(image_size, PATCHES[0])
    if rest or not count:
        raise ConfigError(
            f"image_size is {image_size}, but the image is cut into patches of {PATCHES[0]} x "
            f"{PATCHES[0]} pixels: expected a multiple of {PATCHES[0]}. Set it to "
            f"{max(1, count + bool(rest)) * PATCHES[0]}."
        )
    return count**2


def check_image_size(image: Tensor, image_size: int, name: str) -> None:
    """Refuses images of another size than a network has positions for.

    Args:
        image: [..., H, W].
        image_size: The side that the network was built for.
        name: The network, for the message.

    Raises:
        ConfigError: If a side differs; tells the size to use.
    """
    height, width = image.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise ConfigError(
            f"Image is {height} x {width}, but {name} was built with image_size {image_size} and "
            f"has a learned position for each of its patches; resize it to {image_size} x "
            f"{image_size} (data.image_size), or build the network with another image_size."
        )


class ConvEncoder(nn.Module):
    """Down the U-Net: one convolution at the image's size, then max pooling and two a level.

    Args:
        width: Channels w of the first level; the five have w, 2w, 4w, 8w and 8w.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = level_widths(width)
        self.stem = ConvNormReLU(3, width)
        self.down = nn.ModuleList(ConvPair(a, b) for a, b in pairwise([*widths, widths[-1]]))
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the four skips, from the image's size down, and the lowest map.

        Args:
            image: [B, 3, H, W] in [-1, 1]; the published networks see [0, 1].
        """
        maps = [self.stem((image + 1) / 2)]
        for level in self.down:
            maps.append(level(self.pool(maps[-1])))
        return maps[:-1], maps[-1]


class DecoderLevel(nn.Module):
    """Up one level of the U-Net: nearest doubling, concatenation, two convolutions.

    Args:
        in_width: Channels of the skip and of the map below it, which are the same.
        width: Channels after.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.convolutions = ConvPair(2 * in_width, width)

    def forward(self, low: Tensor, skip: Tensor) -> Tensor:
        """Joins [B, C, H / 2, W / 2] and a skip [B, C, H, W] to [B, width, H, W]."""
        high = F.interpolate(low, scale_factor=2, mode="nearest")
        joined: Tensor = self.convolutions(torch.cat([skip, high], dim=1))
        return joined


def decoder_levels(width: int) -> nn.ModuleList:
    """The decoder's four levels, from the lowest up: 8w, 4w, 2w, w channels to 4w, 2w, w, w."""
    return nn.ModuleList(
        DecoderLevel(in_width, max(in_width // 2, width))
        for in_width in reversed(level_widths(width))
    )


class PixelGate(nn.Module):
    """Weighs each pixel of a skip by a mean and a maximum over its channels (PLAM).

    With a = mean ReLU(W_a s), m = max ReLU(W_m s): s' = s * MLP([a, m, a + m]); the weight has no
    bounds.

    Args:
        width: Channels C of the skip.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, width, 1, bias=False)
        self.maximum = nn.Conv2d(width, width, 1, bias=False)
        self.mlp = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))

    def forward(self, skip: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        mean = F.relu(self.mean(skip)).mean(dim=1, keepdim=True)
        maximum = F.relu(self.maximum(skip)).amax(dim=1, keepdim=True)
        weight: Tensor = self.mlp(torch.cat([mean, maximum, mean + maximum], dim=1))
        return weight * skip


class TokenEmbedding(nn.Module):
    """A skip's patches as tokens: a convolution of stride P, learned positions, dropout.

    Args:
        width: Channels C of the skip and width of a token.
        patch: Side P of a patch.
        tokens: Number of patches N.
        dropout: Rate.
    """

    def __init__(self, width: int, patch: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(width, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, skip: Tensor) -> Tensor:
        """[B, C, H, W] to tokens [B, N, C], in row order."""
        patches = self.patches(skip).flatten(2).transpose(1, 2)
        tokens: Tensor = self.dropout(patches + self.position)
        return tokens


class TokenMap(nn.Module):
    """Adds tokens to the skip that they came from: 1x1 :class:`ConvNormReLU`, nearest enlarging.

    Args:
        width: Width C of a token and channels of the skip.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = ConvNormReLU(width, width, kernel=1)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:
        """Tokens [B, N, C] and their skip [B, C, H, W] to [B, C, H, W]."""
        side = math.isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        # The published order is the other one. Enlarging only repeats values, so neither a 1x1
        # convolution nor a batch's mean and variance can tell; this one has P * P times less to do.
        return skip + F.interpolate(self.convolution(grid), skip.shape[-2:], mode="nearest")


class TokenConv(nn.Sequential):
    """A convolution over neighbours in a sequence, batch norm and ReLU: [B, C, N] to [B, C', N].

    Args:
        in_width: Channels C before.
        width: Channels C' after.
    """

    def __init__(self, in_width: int, width: int) -> None:
        convolution = nn.Conv1d(in_width, width, 3, padding=1)
        super().__init__(convolution, nn.BatchNorm1d(width), nn.ReLU())


class TransformerBlock(nn.Module):
    """Self-attention and an MLP, each after a layer norm and with a residual.

    The MLP is four times as wide and has a GELU after both layers.

    Args:
        width: Width C of a token.
        heads: Attention heads, which divide the width.
        dropout: Rate in the MLP.

    Raises:
        ConfigError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"A token is {width} wide, but the {heads} attention heads share it evenly: "
                f"expected a multiple of {heads}. Set the network's width to one."
            )
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            *(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(4 * width, width), nn.GELU(), nn.Dropout(dropout)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(self.norm_attention(tokens)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(attended)
        result: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return result


class DownwardTransformer(nn.Module):
    """The transformer beside the U-Net of LViT and C2FVL, from the first skip down.

    With x_k the skips, embed the :class:`TokenEmbedding` and R what a report adds:

    - T_1 = block(embed(x_1) + R)
    - T_k = [halve(block(embed(x_k))); T_{k-1}] for the levels below, halve a :class:`TokenConv`

    Args:
        width: Width w of the first level's tokens; the four have w, 2w, 4w and 8w.
        tokens: Tokens N of a level.
        dropout: Rate.
    """

    def __init__(self, width: int, tokens: int, dropout: float) -> None:
        super().__init__()
        widths = level_widths(width)
        self.embed = nn.ModuleList(
            TokenEmbedding(c, patch, tokens, dropout)
            for c, patch in zip(widths, PATCHES, strict=True)
        )
        self.blocks = nn.ModuleList(TransformerBlock(c, dropout=dropout) for c in widths)
        self.halve = nn.ModuleList(TokenConv(c, c // 2) for c in widths[1:])

    def forward(self, skips: Sequence[Tensor], report: Tensor | None = None) -> list[Tensor]:
        """Tokens of each level.

        Args:
            skips: Four maps, from the image's size down.
            report: R [B, N, w], added to the first level's tokens; ``None`` adds nothing.

        Returns:
            T_1 to T_4, [B, N, w] to [B, N, 8w].
        """
        embedded = [embed(skip) for embed, skip in zip(self.embed, skips, strict=True)]
        if report is not None:
            embedded[0] = embedded[0] + report
        first, *lower = (block(tokens) for block, tokens in zip(self.blocks, embedded, strict=True))
        levels: list[Tensor] = [first]
        for halve, tokens in zip(self.halve, lower, strict=True):
            half = halve(tokens.transpose(1, 2)).transpose(1, 2)
            levels.append(torch.cat([half, levels[-1]], dim=-1))
        return levels
