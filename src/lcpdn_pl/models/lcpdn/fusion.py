"""Fusion of image features and report tokens at one scale (eq. 7 to 10)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tile_index(valid: Tensor, length: int) -> Tensor:
    """Which report token each position is paired with: tokens repeat, or are cut, to ``length``.

    Only valid tokens take part, so that padding changes nothing.

    Args:
        valid: [B, N], true for the first n tokens of each report, n >= 1.
        length: Number of positions P.

    Returns:
        [B, P], position mod n.
    """
    return torch.arange(length, device=valid.device) % valid.sum(dim=1, keepdim=True)


class LTFR(nn.Module):
    """Light text-vision fusion and refinement.

    - F_cat = [F_img; F_txt], F_txt the report tokens tiled to the positions     (eq. 7)
    - F_fuse = MLP(F_cat)                                                        (eq. 8)
    - lambda = sigmoid(w F_fuse + b), F* = lambda F_fuse + (1 - lambda) F_img    (eq. 9)
    - H = F* * F_img, elementwise                                                (eq. 10)

    Args:
        width: Width h of image features and report tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.concat = nn.Linear(2 * width, width)
        self.fuse = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)

    def forward(self, image: Tensor, report: Tensor, valid: Tensor) -> Tensor:
        """Fuses one scale.

        Args:
            image: Image features F_img [B, P, h], P positions in row order.
            report: Report tokens [B, N, h].
            valid: [B, N], true where a report token is valid.

        Returns:
            H [B, P, h].
        """
        # A linear layer of [img; text] is the sum of one of img and one of text; the latter is
        # computed once a token and then tiled, not once a position.
        image_weight, text_weight = self.concat.weight.chunk(2, dim=1)
        text = F.linear(report, text_weight, self.concat.bias)
        index = tile_index(valid, image.shape[1]).unsqueeze(-1).expand(-1, -1, text.shape[-1])
        hidden = F.linear(image, image_weight) + text.gather(1, index)
        fused = self.fuse(F.gelu(hidden))
        rate = torch.sigmoid(self.gate(fused))
        refined: Tensor = (rate * fused + (1 - rate) * image) * image
        return refined


class CrossAttention(nn.Module):
    """The standard block that stands in LTFR's place in the ablation.

    Image positions are the queries, report tokens the keys and values; pre-norm, residual.

    Args:
        width: Width h of image features and report tokens.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, image: Tensor, report: Tensor, valid: Tensor) -> Tensor:
        """Fuses one scale; arguments and result as in :meth:`LTFR.forward`."""
        attended, _ = self.attention(
            self.norm(image), report, report, key_padding_mask=~valid, need_weights=False
        )
        result: Tensor = image + attended
        return result
