"""C2FVL: a U-Net and a transformer whose skips are multiplied by attributes of the report."""

from collections.abc import Sequence

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.c2fvl.attributes import parse_attributes
from lcpdn_pl.models.lvit_family import (
    ConvEncoder,
    DownwardTransformer,
    TokenMap,
    check_image_size,
    count_tokens,
    decoder_levels,
    level_widths,
)


def coherence_loss(maps: Sequence[Tensor]) -> Tensor:
    """How far the coarse maps point away from the finest one.

    sum over k > 1 of 0.5 (1 - cos(m_1, m_k)), m_k the map's pixels as one vector; mean over images.

    Args:
        maps: m_1 to m_K, each [B, 1, H, W].

    Returns:
        A scalar, 0 to K - 1.
    """
    # In full precision: a sum over all pixels overflows float16.
    finest, *coarse = (scale.float().flatten(1) for scale in maps)
    distances = [0.5 * (1 - F.cosine_similarity(finest, other, dim=1)) for other in coarse]
    return torch.stack(distances).sum(dim=0).mean()


class AttributeGate(nn.Module):
    """Weighs each pixel of a skip by a mean and a maximum over its channels (VLAB).

    With a = mean ReLU(V_a W_a s + b_a), m = max ReLU(V_m W_m s + b_m): s' = s * MLP(a + m); the
    weight has no bounds.

    Args:
        width: Channels C of the skip.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean, self.maximum = (
            nn.Sequential(
                nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, width, 1), nn.ReLU()
            )
            for _ in range(2)
        )
        self.mlp = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, skip: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        mean = self.mean(skip).mean(dim=1, keepdim=True)
        weight: Tensor = self.mlp(mean + self.maximum(skip).amax(dim=1, keepdim=True))
        return weight * skip


class C2FVL(Network):
    """C2FVL (Shan et al., ICASSP 2023), for reports worded as those of QaTa-COV19.

    Eight attributes are read off the report by rule; there is no text encoder.

    Args:
        image_size: Side of the images; fixed, since positions are learned.
        width: Channels w of the first level, a multiple of 8; the skips have w, 2w, 4w and 8w.
        dropout: Rate at the tokens and in the transformer's MLPs.

    Raises:
        ConfigError: If the image size is no multiple of 16, or the width none of 8; in ``forward``,
            for images of another size.
        DataError: In ``forward``, if a report has no attributes, see
            :func:`lcpdn_pl.models.c2fvl.attributes.parse_attributes`.
    """

    def __init__(
        self,
        image_size: PositiveInt = 224,
        width: PositiveInt = 64,
        dropout: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        widths, tokens = level_widths(width), count_tokens(image_size)
        self.encoder = ConvEncoder(width)
        self.downward = DownwardTransformer(width, tokens, dropout)
        self.maps = nn.ModuleList(TokenMap(c) for c in widths)
        self.gates = nn.ModuleList(AttributeGate(c) for c in widths)
        self.decoder = decoder_levels(width)
        self.classify = nn.Conv2d(width, 1, 1)
        self.classify_coarse = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in widths[1:])

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        return self._segment(image, text)[0]

    def training_forward(
        self, image: Tensor, text: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds ``coherence``; see :meth:`lcpdn_pl.models.base.Network.training_forward`."""
        logits, skips = self._segment(image, text)
        # The finest map shares the output's weights. A 1x1 convolution before nearest enlarging
        # gives the same as one after it.
        maps = [
            F.interpolate(classify(skip), image.shape[-2:], mode="nearest")
            for classify, skip in zip([self.classify, *self.classify_coarse], skips, strict=True)
        ]
        return logits, {"coherence": coherence_loss(maps)}

    def _segment(self, image: Tensor, text: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the four gated skips from the image's size down."""
        check_image_size(image, self.image_size, "c2fvl")
        attributes = image.new_tensor([parse_attributes(report) for report in text])
        skips, hidden = self.encoder(image)
        levels = self.downward(skips)
        gated = []
        for to_map, gate, tokens, skip in zip(self.maps, self.gates, levels, skips, strict=True):
            # Channel c is multiplied by attribute c mod 8.
            factors = attributes.repeat(1, skip.shape[1] // attributes.shape[1])
            gated.append(gate(to_map(tokens, skip) * factors[:, :, None, None]))
        for level, skip in zip(self.decoder, reversed(gated), strict=True):
            hidden = level(hidden, skip)
        return foreground_logits(self.classify(hidden)), gated
