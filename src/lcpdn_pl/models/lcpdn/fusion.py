"""Fusion of image features and report tokens at one scale (eq. 7 to 10)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.models.places import place_maps

HEADS = 4
"""Attention heads, of LTFR's ``attend`` and of the block that stands in its place."""
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
"""Of a place code, in half turns across half the image: the first one tells left from right."""


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


def place_code(height: int, width: int) -> Tensor:
    """Sines and cosines of where each position lies, the same for one place at every scale.

    With u the centre of a position from -1 (top or left edge) to 1, the code is sin(pi f u) and
    cos(pi f u) for each f of :data:`FREQUENCIES`, of its row and then of its column.

    Returns:
        [H * W, 16], positions in row order.
    """
    turns = math.pi * torch.tensor(FREQUENCIES)
    sides = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    places = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    angles = (places.unsqueeze(-1) * turns).flatten(2).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class LTFR(nn.Module):
    """Light text-vision fusion and refinement.

    - F_cat = [F_img; F_txt], F_txt the report's tokens aligned to the positions  (eq. 7)
    - F_fuse = MLP(F_cat)                                                         (eq. 8)
    - lambda = sigmoid(w F_fuse + b), F* = lambda F_fuse + (1 - lambda) F_img     (eq. 9)
    - H = F* * F_img, elementwise                                                 (eq. 10)

    Args:
        width: Width h of image features and report tokens.
        alignment: ``tile`` repeats the tokens over the positions (the paper). With ``attend`` each
            position is coded by its place, P = F_img + W_p code, and looks for the tokens T that
            concern it: eq. 8's first layer takes P for F_img and adds attention in 4 heads with
            queries P W_Q, keys T W_K and, as values, its own share of T.
        places: Tell eq. 8's first layer, by a linear layer of two maps that is added to it, whether
            the report names a position's place. From few reports, attention to frozen
            tokens does not learn which half of the image `left` means.
    """

    def __init__(
        self,
        width: int,
        alignment: Literal["tile", "attend"] = "tile",
        places: bool = False,
    ) -> None:
        super().__init__()
        self.concat = nn.Linear(2 * width, width)
        self.fuse = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.attends = alignment == "attend"
        if self.attends:
            self.place = nn.Linear(4 * len(FREQUENCIES), width, bias=False)
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)
        self.named = nn.Linear(2, width, bias=False) if places else None

    def forward(
        self, image: Tensor, report: Tensor, valid: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Fuses one scale.

        Args:
            image: Image features F_img [B, h, H, W].
            report: Report tokens [B, N, h].
            valid: [B, N], true where a report token is valid.
            places: The places that each report names [B, 3, 2], see
                :func:`lcpdn_pl.models.places.named_places`; if built with ``places``.

        Returns:
            H [B, h, H, W].

        Raises:
            ValueError: If ``places`` are missing, or come to a module that was built without them.
        """
        if (self.named is None) != (places is None):
            raise ValueError(
                f"LTFR was built with places={self.named is not None} but called "
                f"{'without' if places is None else 'with'} them. Build and call it alike."
            )
        pixels = image.flatten(2).transpose(1, 2)
        # A linear layer of [img; text] is the sum of one of img and one of text; the latter is
        # computed once a token and then aligned, not once a position.
        image_weight, text_weight = self.concat.weight.chunk(2, dim=1)
        text = F.linear(report, text_weight, self.concat.bias)
        placed = pixels
        if self.attends:
            height, width = image.shape[-2:]
            placed = pixels + self.place(place_code(height, width).to(pixels))
            query, key, value = (
                part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for part in (self.query(placed), self.key(report), text)
            )
            found = F.scaled_dot_product_attention(
                query, key, value, attn_mask=valid[:, None, None]
            )
            aligned = found.transpose(1, 2).flatten(2)
        else:
            index = tile_index(valid, pixels.shape[1]).unsqueeze(-1)
            aligned = text.gather(1, index.expand(-1, -1, text.shape[-1]))
        if self.named is not None and places is not None:
            maps = place_maps(places.to(pixels), *image.shape[-2:])
            aligned = aligned + self.named(maps.flatten(2).transpose(1, 2))
        fused = self.fuse(F.gelu(F.linear(placed, image_weight) + aligned))
        rate = torch.sigmoid(self.gate(fused))
        refined = (rate * fused + (1 - rate) * pixels) * pixels
        result: Tensor = refined.transpose(1, 2).unflatten(2, image.shape[-2:])
        return result


class CrossAttention(nn.Module):
    """The standard block that stands in LTFR's place in the ablation.

    Image positions are the queries, report tokens the keys and values; pre-norm, residual.

    Args:
        width: Width h of image features and report tokens.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int = HEADS) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, image: Tensor, report: Tensor, valid: Tensor) -> Tensor:
        """Fuses one scale; arguments and result as in :meth:`LTFR.forward`."""
        pixels = image.flatten(2).transpose(1, 2)
        attended, _ = self.attention(
            self.norm(pixels), report, report, key_padding_mask=~valid, need_weights=False
        )
        result: Tensor = (pixels + attended).transpose(1, 2).unflatten(2, image.shape[-2:])
        return result
