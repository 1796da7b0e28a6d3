"""The floor `unet`: a plain U-Net on the image, and if asked on the places that a report names."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, nn

from lcpdn_pl.backbones.base import check_sides
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import InstanceConvPair
from lcpdn_pl.models.places import named_places, place_maps


class UNet(Network):
    """U-Net (Ronneberger et al., MICCAI 2015) with instance norm and padded convolutions.

    Two 3x3 convolutions a level, max pooling down, transposed convolutions up, skips concatenated.

    Args:
        widths: Channels of each level, from the image's size down.
        dropout: Rate of channels dropped at the lowest level.
        report_places: Two more input channels, which draw the places that a report names (see
            :mod:`lcpdn_pl.models.places`): what LCPDN knows of side words, given to this floor.

    Raises:
        ConfigError: If there is no level; in ``forward``, if a side of the image is no multiple of
            2^(levels - 1).
    """

    def __init__(
        self,
        widths: Sequence[PositiveInt] = (32, 64, 128, 256, 512),
        dropout: ClosedUnitInterval = 0.2,
        report_places: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise ConfigError(
                f"widths is {widths}: expected the channels of one level or more, from the image's "
                "size down, such as [32, 64, 128, 256, 512]."
            )
        self.report_places = report_places
        self.divisor = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(
            InstanceConvPair(a, b) for a, b in pairwise([5 if report_places else 3, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        levels = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in levels)
        self.up = nn.ModuleList(InstanceConvPair(2 * b, b) for _, b in levels)
        self.classify = nn.Conv2d(widths[0], 2, 1)

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        check_sides(image, self.divisor, "unet")
        hidden = image
        if self.report_places:
            maps = place_maps(named_places(text).to(image), *image.shape[-2:])
            hidden = torch.cat([image, maps], dim=1)
        skips: list[Tensor] = []
        for level in self.down:
            hidden = level(self.pool(hidden) if skips else hidden)
            skips.append(hidden)
        hidden = self.dropout(skips.pop())
        for grow, level in zip(self.grow, self.up, strict=True):
            hidden = level(torch.cat([grow(hidden), skips.pop()], dim=1))
        logits: Tensor = self.classify(hidden)
        return logits
