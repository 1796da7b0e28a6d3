"""LViT: a U-Net and a transformer side by side, and a report that joins at the first level."""

from collections.abc import Sequence
from itertools import pairwise

from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.lvit_family import (
    ConvEncoder,
    DownwardTransformer,
    PixelGate,
    TokenConv,
    TokenMap,
    TransformerBlock,
    check_image_size,
    count_tokens,
    decoder_levels,
    level_widths,
)


class ReportTokens(nn.Module):
    """What a report adds to the image's tokens: its tokens narrowed, then mixed into N of them.

    R = ReLU(norm(conv_{M to N}(conv^4(T)))): four convolutions along the M tokens narrow them to
    8w, 4w, 2w and w; a fifth one takes the tokens for channels and runs along their width.

    Args:
        text_width: Width D of a report token.
        width: Width w of the first level's tokens.
        max_tokens: Number M of report tokens; further ones are cut, missing ones are zeros.
        tokens: Number N of image tokens.
    """

    def __init__(self, text_width: int, width: int, max_tokens: int, tokens: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        widths = [text_width, *reversed(level_widths(width))]
        self.narrow = nn.Sequential(*(nn.Conv1d(a, b, 3, padding=1) for a, b in pairwise(widths)))
        self.mix = TokenConv(max_tokens, tokens)

    def forward(self, report: Tensor) -> Tensor:
        """Report tokens T [B, n, D], zeros where one has fewer than n, to R [B, N, w]."""
        # A negative number cuts.
        report = F.pad(report, (0, 0, 0, self.max_tokens - report.shape[1]))
        narrow = self.narrow(report.transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = self.mix(narrow)
        return mixed


class UpwardTransformer(nn.Module):
    """The transformer's way back, from the lowest level up.

    U_4 = block(T_4), U_k = block(T_k) + narrow(U_{k+1}), narrow a :class:`TokenConv`.

    Args:
        width: Width w of the first level's tokens.
        dropout: Rate.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        widths = level_widths(width)
        self.blocks = nn.ModuleList(TransformerBlock(c, dropout=dropout) for c in widths)
        self.narrow = nn.ModuleList(TokenConv(2 * c, c) for c in widths[:-1])

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """T_1 to T_4, [B, N, w] to [B, N, 8w], to U_1 to U_4 of the same shapes."""
        raised = [block(tokens) for block, tokens in zip(self.blocks, levels, strict=True)]
        for level in reversed(range(len(self.narrow))):
            below = self.narrow[level](raised[level + 1].transpose(1, 2)).transpose(1, 2)
            raised[level] = raised[level] + below
        return raised


class LViT(Network):
    """LViT (Li et al., IEEE TMI 2024), trained with full supervision (LViT-T).

    Args:
        text_encoder: See :func:`lcpdn_pl.backbones.text.create_text_encoder`; BERT in the paper.
        max_tokens: Report tokens M: longer reports are cut, shorter ones filled up with zeros.
        image_size: Side of the images; fixed, since positions are learned.
        width: Channels w of the first level, a multiple of 8; the skips have w, 2w, 4w and 8w.
        dropout: Rate at the tokens and in the transformers' MLPs.

    Raises:
        WeightsError: If the text encoder cannot be loaded.
        ConfigError: If the image size is no multiple of 16, or the width none of 8; in ``forward``,
            for images of another size.
    """

    def __init__(
        self,
        text_encoder: str = "minilm-l6",
        max_tokens: PositiveInt = 10,
        image_size: PositiveInt = 224,
        width: PositiveInt = 64,
        dropout: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        widths, tokens = level_widths(width), count_tokens(image_size)
        self.text_encoder = create_text_encoder(text_encoder, max_tokens)
        self.report = ReportTokens(self.text_encoder.width, width, max_tokens, tokens)
        self.encoder = ConvEncoder(width)
        self.downward = DownwardTransformer(width, tokens, dropout)
        self.upward = UpwardTransformer(width, dropout)
        self.maps = nn.ModuleList(TokenMap(c) for c in widths)
        self.gates = nn.ModuleList(PixelGate(c) for c in reversed(widths))
        self.decoder = decoder_levels(width)
        self.classify = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        check_image_size(image, self.image_size, "lvit")
        report, _ = self.text_encoder(text)
        skips, hidden = self.encoder(image)
        levels = self.upward(self.downward(skips, self.report(report)))
        skips = [
            to_map(tokens, skip)
            for to_map, tokens, skip in zip(self.maps, levels, skips, strict=True)
        ]
        for level, gate, skip in zip(self.decoder, self.gates, reversed(skips), strict=True):
            hidden = level(hidden, gate(skip))
        return foreground_logits(self.classify(hidden))
