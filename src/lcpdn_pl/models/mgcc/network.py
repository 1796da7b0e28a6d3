"""MGCC: a U-Net with ConvMixers at its lowest level, and decoders that are to agree in training."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.base import check_sides
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import ConvNormReLU, ConvPair, foreground_logits


def drop_active(features: Tensor) -> Tensor:
    """Sets the most active pixels to zero (Ouali et al., CVPR 2020).

    x' = x where a < g max(a), else 0, with a the mean over channels, its maximum over the pixels
    of an image, and g uniform in [0.7, 0.9], one an image.

    Args:
        features: x [B, C, H, W], not negative.
    """
    active = features.mean(dim=1, keepdim=True)
    share = torch.empty_like(active[:, :, :1, :1]).uniform_(0.7, 0.9)
    return features * (active < share * active.amax(dim=(2, 3), keepdim=True))


def drop_values(features: Tensor) -> Tensor:
    """Sets 30% of the values to zero and enlarges the others by 1 / 0.7."""
    return F.dropout(features, 0.3)


def add_noise(features: Tensor) -> Tensor:
    """X' = x + x n, with n uniform in [-0.3, 0.3] for each value (Ouali et al., CVPR 2020)."""
    return features + features * torch.empty_like(features).uniform_(-0.3, 0.3)


PERTURBATIONS: tuple[Callable[[Tensor], Tensor], ...] = (drop_active, drop_values, add_noise)
"""What is done to the features that each auxiliary decoder gets, from the first one on."""


class ConvMixerLayer(nn.Module):
    """A ConvMixer's layer (Trockman and Kolter, TMLR 2023).

    y = x + norm(GELU(depthwise(x))), then norm(GELU(pointwise(y))).

    Args:
        width: Channels C.
        kernel: Odd side of the depthwise kernel.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depthwise = nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(width))
        pointwise = nn.Conv2d(width, width, 1)
        self.pointwise = nn.Sequential(pointwise, nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        mixed: Tensor = self.pointwise(features + self.depthwise(features))
        return mixed


class SkipGate(nn.Module):
    """Weighs a skip by what three sizes of kernels see in it (MSAG).

    With a, b and c a 1x1, a 3x3 and a 3x3 convolution of dilation 2, each with batch norm:
    s' = s + s * sigmoid(norm(conv(ReLU([a(s); b(s); c(s)])))), conv a 1x1 convolution.

    Args:
        width: Channels C of the skip.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = (
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
        )
        self.looks = nn.ModuleList(
            nn.Sequential(convolution, nn.BatchNorm2d(width)) for convolution in convolutions
        )
        self.vote = nn.Sequential(nn.Conv2d(3 * width, width, 1), nn.BatchNorm2d(width))

    def forward(self, skip: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        seen = torch.cat([look(skip) for look in self.looks], dim=1)
        return skip + skip * torch.sigmoid(self.vote(F.relu(seen)))


class DecoderLevel(nn.Module):
    """Up one level: nearest doubling and a convolution, the gated skip, two convolutions.

    Args:
        width: Channels C of the skip; the map below it has 2C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grow = nn.Sequential(nn.Upsample(scale_factor=2), ConvNormReLU(2 * width, width))
        self.gate = SkipGate(width)
        self.convolutions = ConvPair(2 * width, width)

    def forward(self, low: Tensor, skip: Tensor) -> Tensor:
        """Joins [B, 2C, H / 2, W / 2] and a skip [B, C, H, W] to [B, C, H, W]."""
        joined: Tensor = self.convolutions(torch.cat([self.gate(skip), self.grow(low)], dim=1))
        return joined


class Decoder(nn.Module):
    """From the lowest map up to two-class logits.

    Args:
        widths: Channels of the skips, from the image's size down.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(DecoderLevel(width) for width in reversed(widths))
        self.classify = nn.Conv2d(widths[0], 1, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decodes.

        Args:
            features: The skips, from the image's size down, then the lowest map.

        Returns:
            Logits [B, 2, H, W].
        """
        *skips, hidden = features
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            hidden = level(hidden, skip)
        return foreground_logits(self.classify(hidden))


class MGCC(Network):
    """MGCC (Tang et al., 2023); reads no report.

    :class:`lcpdn_pl.tasks.ConsistencyTask` trains it: its decoders are to agree on images without
    masks.

    Args:
        width: Channels of the first level; each level has twice those of the one above it.
        levels: Levels, of the image's size and below; 2 or more.
        depth: Layers of each of the three ConvMixers.
        kernel: Odd side of their depthwise kernels.

    Raises:
        ConfigError: If there are fewer than 2 levels, or the kernel's side is even; in ``forward``,
            if a side of the image is no multiple of 2^(levels - 1); in ``training_forward``, which
            would leave the auxiliary decoders untrained.
    """

    def __init__(
        self,
        width: PositiveInt = 64,
        levels: PositiveInt = 5,
        depth: PositiveInt = 3,
        kernel: PositiveInt = 7,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ConfigError(
                f"levels is {levels}: expected 2 or more, the lowest one and those whose skips the "
                "decoders get, such as the published 5."
            )
        if kernel % 2 == 0:
            raise ConfigError(
                f"kernel is {kernel}: expected an odd side, which keeps a map's size, such as the "
                "published 7."
            )
        widths = [width * 2**level for level in range(levels)]
        *skips, lowest = widths
        self.divisor = 2 ** len(skips)
        self.encoder = nn.ModuleList(ConvPair(a, b) for a, b in pairwise([3, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.mixers = nn.ModuleList(
            nn.Sequential(*(ConvMixerLayer(lowest, kernel) for _ in range(depth)))
            for _ in PERTURBATIONS
        )
        self.decoder = Decoder(skips)
        self.auxiliary = nn.ModuleList(Decoder(skips) for _ in PERTURBATIONS)

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:  # noqa: ARG002 - reads none
        """See :meth:`lcpdn_pl.models.base.Network.forward`; no auxiliary decoder takes part."""
        skips, lowest = self._encode(image)
        logits: Tensor = self.decoder([*skips, lowest[-1]])
        return logits

    def training_forward(
        self,
        image: Tensor,  # noqa: ARG002 - the base class's signature
        text: Sequence[str],  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Refuses: what the auxiliary decoders learn from is no term of the network alone."""
        raise ConfigError(
            "mgcc has auxiliary decoders, which a SegmentationTask would not train: expected a "
            "ConsistencyTask. Set it as model.class_path, as configs/methods/mgcc.yaml does."
        )

    def branches(self, image: Tensor) -> list[Tensor]:
        """Segments by all decoders.

        The main one gets the skips and the lowest map after the last ConvMixer. Auxiliary decoder
        k gets the lowest map before ConvMixer k; this and the skips are perturbed by
        ``PERTURBATIONS[k]``.

        Args:
            image: [B, 3, H, W] in [-1, 1].

        Returns:
            Logits [B, 2, H, W] of the main decoder, then of the auxiliary ones.
        """
        skips, lowest = self._encode(image)
        return [
            self.decoder([*skips, lowest[-1]]),
            *(
                decoder([perturb(features) for features in (*skips, before)])
                for decoder, perturb, before in zip(
                    self.auxiliary, PERTURBATIONS, lowest[:-1], strict=True
                )
            ),
        ]

    def _encode(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The skips, and the lowest map before the first ConvMixer and after each of them."""
        check_sides(image, self.divisor, "mgcc")
        maps: list[Tensor] = []
        for level in self.encoder:
            maps.append(level(self.pool(maps[-1]) if maps else image))
        lowest = [maps.pop()]
        for mixer in self.mixers:
            lowest.append(mixer(lowest[-1]))
        return maps, lowest
