"""What RecLMIS trains beside its masks: rebuild hidden words and patches, tell reports apart."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.lvit_family import TokenConv

HEADS = 4
"""Attention heads, in the interaction and in the reconstructions."""
CONTRAST_SCALE = 100.0
"""Factor of the scores before their softmax, the value that CLIP ends its training with."""


class Sides(NamedTuple):
    """The report's words [B, N, C] and the image's patches [B, P, C]."""

    words: Tensor
    patches: Tensor


def log_weights(scores: Tensor, valid: Tensor) -> Tensor:
    """Logarithms of the tokens' weights w = softmax(scores) over the valid tokens.

    Args:
        scores: [B, N].
        valid: [B, N], true where a token is no padding.

    Returns:
        log w [B, N], -inf at padding.
    """
    return scores.masked_fill(~valid, -math.inf).log_softmax(dim=-1)


def hide(log_weight: Tensor, share: float) -> Tensor:
    """Draws tokens to hide, without replacement and with probabilities proportional to w.

    The greatest log w + Gumbel noise are such a draw (Kool et al., ICML 2019).

    Args:
        log_weight: log w [B, N], -inf at padding.
        share: Share of a sequence's valid tokens that are hidden, rounded down, but at least one.

    Returns:
        [B, N], true where a token is hidden.
    """
    count = (share * log_weight.isfinite().sum(dim=-1, keepdim=True)).floor().clamp(min=1)
    noise = -torch.empty_like(log_weight).exponential_().log()
    rank = (log_weight.detach() + noise).argsort(dim=-1, descending=True).argsort(dim=-1)
    return rank < count


def contrast_loss(words: Tensor, patches: Tensor, log_word: Tensor, log_patch: Tensor) -> Tensor:
    """How badly reports and images of a batch find each other.

    With cos the cosine, w and v the weights of words and patches, report a and image b:

    - s_ab = 0.5 (sum over n of w_an max over p of cos(t_an, x_bp)
      + sum over p of v_bp max over n of cos(t_an, x_bp))
    - 0.5 (mean over a of -log softmax_b(100 s)_aa + mean over b of -log softmax_a(100 s)_bb)

    Args:
        words: t [B, N, C].
        patches: x [B, P, C].
        log_word: log w [B, N], -inf at padding.
        log_patch: log v [B, P].

    Returns:
        A scalar.

    Raises:
        ConfigError: If the batch is a single image, which has nothing to be told from.
    """
    if len(words) < 2:
        raise ConfigError(
            "contrast tells each image's report from those of the others in its batch: expected 2 "
            "images or more, found 1. Set data.batch_size so that no batch of an epoch, its last "
            "one included, is a single image, or leave the term out: model.network.contrast 0."
        )
    # In full precision: the scale leaves little of half precision.
    cosine = torch.einsum(
        "anc,bpc->abnp", F.normalize(words.float(), dim=-1), F.normalize(patches.float(), dim=-1)
    )
    padding = log_word.isinf()[:, None, :, None]
    by_word = torch.einsum("abn,an->ab", cosine.amax(dim=3), log_word.exp())
    by_patch = cosine.masked_fill(padding, -math.inf).amax(dim=2)
    scores = 0.5 * (by_word + torch.einsum("abp,bp->ab", by_patch, log_patch.exp()))
    own = torch.arange(len(scores), device=scores.device)
    found = [F.cross_entropy(CONTRAST_SCALE * side, own) for side in (scores, scores.T)]
    return 0.5 * (found[0] + found[1])


class Reconstruction(nn.Module):
    """Rebuilds the tokens of one side from those that are not hidden and the other side's tokens.

    One stack of transformer layers reads the other side, a second one attends to what it says. In
    both attentions to the other side's tokens, each of these counts by its weight w:
    A_ij = a_ij w_j / sum_j(a_ij w_j), a the softmax of the scores. All self-attention is causal.
    Layer norms come after the residuals, MLPs are twice as wide.

    Args:
        width: Width C of a token.
        target_width: Width D of what is rebuilt; a linear layer maps to it where it is not C.
        layers: Layers of each stack.
        dropout: Rate in the layers.
    """

    def __init__(self, width: int, target_width: int, layers: int, dropout: float) -> None:
        super().__init__()
        shape = (width, HEADS, 2 * width, dropout)
        self.read = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*shape, batch_first=True), layers, enable_nested_tensor=False
        )
        self.rebuild = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(*shape, batch_first=True), layers
        )
        self.project = nn.Identity() if target_width == width else nn.Linear(width, target_width)

    def forward(self, tokens: Tensor, hidden: Tensor, other: Tensor, log_weight: Tensor) -> Tensor:
        """Rebuilds.

        Args:
            tokens: This side [B, N, C].
            hidden: [B, N], true where a token is replaced by zeros.
            other: The other side [B, M, C].
            log_weight: log w [B, M], -inf at padding.

        Returns:
            [B, N, D].
        """
        seen = tokens.masked_fill(hidden.unsqueeze(-1), 0.0)
        # To add log w to a score is to multiply its softmax by w and to normalise again.
        bias = log_weight.repeat_interleave(HEADS, dim=0).unsqueeze(1)
        memory = self.read(other, mask=_causal(other) + bias)
        rebuilt = self.rebuild(
            seen,
            memory,
            tgt_mask=_causal(seen),
            tgt_is_causal=True,
            memory_mask=bias.expand(-1, tokens.shape[1], -1),
        )
        result: Tensor = self.project(rebuilt)
        return result


class Auxiliaries(nn.Module):
    """The terms of the loss that RecLMIS adds; a term of weight 0 is left out with its layers.

    All terms work on words and patches from before the interaction, so that they ask something of
    encoder and text layer; after it a patch is a mixture of its own report's words. The weights of
    words and patches alone, and what patches are rebuilt to, come from after it. Weights are those
    of an MLP a side, of the words after a convolution over neighbours, and are there where a term
    learns them: a reconstruction learns the weights of the side that it reads, the contrast both.
    Without it all tokens weigh the same.

    Args:
        width: Width C of a token.
        text_width: Width D of the text encoder's tokens.
        contrast: Weight of :func:`contrast_loss`.
        rebuild_text: Weight of the rebuilt words' squared error.
        rebuild_image: Weight of the rebuilt patches' squared error.
        conditioned: Learn the weights of words and patches.
        hidden_words: Share of the words that are hidden.
        hidden_patches: Share of the patches that are hidden.
        layers: Layers of each stack of a :class:`Reconstruction`.
        dropout: Rate in these layers.
        score_dropout: Rate at the tokens that weights are learnt from.

    Raises:
        ConfigError: If a weight is negative, or a share is not between 0 and 1.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        contrast: float,
        rebuild_text: float,
        rebuild_image: float,
        conditioned: bool,
        hidden_words: float,
        hidden_patches: float,
        layers: int,
        dropout: float,
        score_dropout: float,
    ) -> None:
        super().__init__()
        self.factors = {
            "contrast": contrast,
            "rebuild_text": rebuild_text,
            "rebuild_image": rebuild_image,
        }
        for name, factor in self.factors.items():
            if factor < 0:
                raise ConfigError(
                    f"{name} is {factor}: expected a weight of 0 (the term is left out) or more."
                )
        self.shares = {"hidden_words": hidden_words, "hidden_patches": hidden_patches}
        for name, share in self.shares.items():
            if not 0 < share < 1:
                raise ConfigError(
                    f"{name} is {share}: expected a share between 0 and 1, such as 0.5. To hide "
                    "nothing, leave the reconstructions out: rebuild_text 0, rebuild_image 0."
                )
        of_words = conditioned and (contrast or rebuild_image)
        of_patches = conditioned and (contrast or rebuild_text)
        self.mix = TokenConv(width, width) if of_words else None
        self.word_scores = _scores(width, score_dropout) if of_words else None
        self.patch_scores = _scores(width, score_dropout) if of_patches else None
        stacks = (layers, dropout)
        self.text = Reconstruction(width, text_width, *stacks) if rebuild_text else None
        self.image = Reconstruction(width, width, *stacks) if rebuild_image else None

    def forward(
        self, before: Sides, after: Sides, report: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Computes the terms.

        Args:
            before: Words and patches as the interaction gets them, patches without positions.
            after: Words and patches as it leaves them.
            report: The text encoder's tokens [B, N, D], which the words are rebuilt to.
            valid: [B, N], true where a word is no padding.

        Returns:
            The terms that are not left out, times their weights: ``contrast``, ``rebuild_text``
            and ``rebuild_image``.

        Raises:
            ConfigError: If there is a contrast and the batch is a single image.
        """
        words, patches = before
        log_word = self._word_weights(after.words, valid)
        log_patch = log_weights(
            _weigh(self.patch_scores, after.patches), valid.new_ones(patches.shape[:2])
        )
        terms = {}
        if self.factors["contrast"]:
            terms["contrast"] = contrast_loss(words, patches, log_word, log_patch)
        if self.text is not None:
            hidden = hide(log_word, self.shares["hidden_words"])
            rebuilt = self.text(words, hidden, patches, log_patch)
            terms["rebuild_text"] = F.mse_loss(rebuilt[valid].float(), report[valid])
        if self.image is not None:
            hidden = hide(log_patch, self.shares["hidden_patches"])
            rebuilt = self.image(patches, hidden, words, log_word)
            # The target is learnt too, as published.
            terms["rebuild_image"] = F.mse_loss(rebuilt.float(), after.patches.float())
        return {name: self.factors[name] * term for name, term in terms.items()}

    def _word_weights(self, words: Tensor, valid: Tensor) -> Tensor:
        """Logarithms of the words' weights [B, N]."""
        if self.mix is not None:
            # As zeros, padding is to the last word what the end of a sequence is.
            words = words.masked_fill(~valid.unsqueeze(-1), 0.0)
            words = self.mix(words.mT).mT
        return log_weights(_weigh(self.word_scores, words), valid)


def _scores(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    )


def _weigh(scores: nn.Module | None, tokens: Tensor) -> Tensor:
    """Scores [B, N], all the same where there is no MLP."""
    if scores is None:
        return tokens.new_zeros(tokens.shape[:2], dtype=torch.float32)
    weighed: Tensor = scores(tokens)
    return weighed.squeeze(-1)


def _causal(tokens: Tensor) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(
        tokens.shape[1], tokens.device, tokens.dtype
    )
