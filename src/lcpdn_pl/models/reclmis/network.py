"""RecLMIS: a U-Net whose lowest map meets the report, trained to rebuild parts of either."""

from collections.abc import Sequence

from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, nn

from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.lvit_family import (
    ConvEncoder,
    PixelGate,
    TokenEmbedding,
    check_image_size,
    count_tokens,
    decoder_levels,
    level_widths,
)
from lcpdn_pl.models.reclmis.auxiliaries import HEADS, Auxiliaries, Sides


class Interaction(nn.Module):
    """Report and image attend to each other, without residuals.

    With att(Q, K) multi-head attention, whose values come from K: T' = att(T, X), X' = att(X, T').

    Args:
        width: Width C of a word and of a patch.
        dropout: Rate in the attention.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.text_attention, self.image_attention = (
            nn.MultiheadAttention(width, HEADS, dropout, batch_first=True) for _ in range(2)
        )

    def forward(self, words: Tensor, patches: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            words: T [B, N, C].
            patches: X [B, P, C].
            valid: [B, N], true where a word is no padding.

        Returns:
            T' [B, N, C] and X' [B, P, C].
        """
        words, _ = self.text_attention(words, patches, patches, need_weights=False)
        patches, _ = self.image_attention(
            patches, words, words, key_padding_mask=~valid, need_weights=False
        )
        return words, patches


class RecLMIS(Network):
    """RecLMIS (Huang et al., IEEE TMI 2025).

    Args:
        text_encoder: See :func:`lcpdn_pl.backbones.text.create_text_encoder`; CLIP's in the paper.
        max_tokens: Longer reports are cut to this many tokens, the marks at both ends included.
        image_size: Side of the images; fixed, since positions are learned.
        width: Channels w of the first level; the skips have w, 2w, 4w and 8w.
        interaction: Let report and image attend to each other; false leaves both as they are, so
            that the report reaches the network through the terms below alone.
        conditioned: Learn how much each word and each patch counts in the terms below; false
            counts all the same.
        contrast: Weight of the term that tells reports apart; 0 leaves it out, as for those below.
        rebuild_text: Weight of the rebuilt words' squared error.
        rebuild_image: Weight of the rebuilt patches' squared error.
        hidden_words: Share of the words that are hidden from what rebuilds them.
        hidden_patches: Share of the patches that are hidden, as for those above.
        layers: Layers of each of the four stacks that rebuild.
        dropout: Rate at the patches and in attention and stacks.
        score_dropout: Rate at the words and patches where their weights are learnt.

    Raises:
        WeightsError: If the text encoder cannot be loaded.
        ConfigError: If the image size is no multiple of 16, a weight is negative, a share is not
            between 0 and 1, or nothing reads the report; in ``forward``, for images of another
            size; in ``training_forward``, for a contrast in a batch of one image.
    """

    def __init__(
        self,
        text_encoder: str = "minilm-l6",
        max_tokens: PositiveInt = 18,
        image_size: PositiveInt = 224,
        width: PositiveInt = 64,
        interaction: bool = True,
        conditioned: bool = True,
        contrast: float = 0.2,
        rebuild_text: float = 1.0,
        rebuild_image: float = 1.0,
        hidden_words: ClosedUnitInterval = 0.3,
        hidden_patches: ClosedUnitInterval = 0.5,
        layers: PositiveInt = 4,
        dropout: ClosedUnitInterval = 0.1,
        score_dropout: ClosedUnitInterval = 0.0,
    ) -> None:
        super().__init__()
        if not (interaction or contrast or rebuild_text or rebuild_image):
            raise ConfigError(
                "interaction is off and contrast, rebuild_text and rebuild_image are 0, so that "
                "nothing reads the report: expected one of them. Turn one on, or train unet."
            )
        self.image_size = image_size
        widths, tokens = level_widths(width), count_tokens(image_size)
        lowest = widths[-1]
        self.text_encoder = create_text_encoder(text_encoder, max_tokens)
        self.words = nn.Conv1d(self.text_encoder.width, lowest, 3, padding=1)
        self.encoder = ConvEncoder(width)
        self.embed = TokenEmbedding(lowest, 1, tokens, dropout)
        self.interact = Interaction(lowest, dropout) if interaction else None
        self.gates = nn.ModuleList(PixelGate(c) for c in reversed(widths))
        self.decoder = decoder_levels(width)
        self.classify = nn.Conv2d(width, 1, 1)
        self.auxiliaries = Auxiliaries(
            lowest,
            self.text_encoder.width,
            contrast,
            rebuild_text,
            rebuild_image,
            conditioned,
            hidden_words,
            hidden_patches,
            layers,
            dropout,
            score_dropout,
        )

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        return self._segment(image, *self.text_encoder(text))[0]

    def training_forward(
        self, image: Tensor, text: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the terms of :class:`Auxiliaries`; see the base class."""
        report, valid = self.text_encoder(text)
        logits, before, after = self._segment(image, report, valid)
        return logits, self.auxiliaries(before, after, report, valid)

    def _segment(self, image: Tensor, report: Tensor, valid: Tensor) -> tuple[Tensor, Sides, Sides]:
        """Logits, and words and patches before and after the interaction."""
        check_image_size(image, self.image_size, "reclmis")
        skips, lowest = self.encoder(image)
        words = self.words(report.transpose(1, 2)).transpose(1, 2)
        before, after = Sides(words, lowest.flatten(2).mT), Sides(words, self.embed(lowest))
        if self.interact is not None:
            after = Sides(*self.interact(*after, valid))
        hidden = after.patches.mT.unflatten(2, lowest.shape[-2:])
        for level, gate, skip in zip(self.decoder, self.gates, reversed(skips), strict=True):
            hidden = level(hidden, gate(skip))
        return foreground_logits(self.classify(hidden)), before, after
