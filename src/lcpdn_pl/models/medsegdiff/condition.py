"""The condition network: a U-Net that reads the image alone."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConditionLayer(nn.Sequential):
    """A 3x3 convolution that keeps the size, dropout of channels, batch norm and leaky ReLU.

    Args:
        in_width: Channels before.
        width: Channels after.
        dropout: Share of the channels that is set to zero in training.
    """

    def __init__(self, in_width: int, width: int, dropout: float = 0.0) -> None:
        slope = 0.01
        convolution = nn.Conv2d(in_width, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, a=slope)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        super().__init__(
            convolution, nn.Dropout2d(dropout), nn.BatchNorm2d(width), nn.LeakyReLU(slope)
        )


class ConditionNetwork(nn.Module):
    """A U-Net as nnU-Net builds it (Isensee et al., Nature Methods 2021), of six levels.

    Its channels are w/4, w/2, w, 2w and 15w/4, the last one twice. It gives a mask of its own, the
    calibration mask, and the anchors that the denoiser adds to its first features.

    Args:
        width: w, channels of the anchors; a multiple of 4.
        dropout: Of the channels in the encoder.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        widths = [width * quarters // 4 for quarters in (1, 2, 4, 8, 15)]
        self.encoder = nn.ModuleList(
            nn.Sequential(ConditionLayer(a, b, dropout), ConditionLayer(b, b, dropout))
            for a, b in pairwise([3, *widths])
        )
        lowest = widths[-1]
        self.lowest = nn.Sequential(
            ConditionLayer(lowest, lowest, dropout), ConditionLayer(lowest, lowest, dropout)
        )
        # Each level ends as wide as the skip above it; above the last one there is none.
        self.decoder = nn.ModuleList(
            nn.Sequential(ConditionLayer(2 * skip, skip), ConditionLayer(skip, above))
            for above, skip in reversed(list(pairwise([widths[0], *widths])))
        )
        self.classify = nn.Conv2d(widths[0], 1, 1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reads the image.

        Args:
            image: [B, 3, H, W], both sides multiples of 32.

        Returns:
            The anchors [B, w, H, W]: the decoder's maps of half the image's size, twice, and of a
            quarter, enlarged; and the calibration mask's score [B, 1, H, W], before its sigmoid.
        """
        hidden = image
        skips: list[Tensor] = []
        for level in self.encoder:
            skips.append(level(hidden))
            hidden = F.max_pool2d(skips[-1], 2)
        hidden = self.lowest(hidden)
        maps: list[Tensor] = []
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            hidden = level(torch.cat([_enlarge(hidden, 2), skip], dim=1))
            maps.append(hidden)
        *_, quarter, half, full = maps
        half = _enlarge(half, 2)
        anchors = torch.cat([half, half, _enlarge(quarter, 4)], dim=1)
        return anchors, self.classify(full)


def _enlarge(features: Tensor, factor: int) -> Tensor:
    return F.interpolate(features, scale_factor=factor, mode="bilinear")
