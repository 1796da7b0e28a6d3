"""Frozen text encoders: a report becomes tokens and a mask of the valid ones."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer

from lcpdn_pl.backbones import weights
from lcpdn_pl.backbones.base import FrozenBackbone
from lcpdn_pl.backbones.catalogue import elsewhere, embedded, local_copy
from lcpdn_pl.errors import ConfigError, WeightsError
from lcpdn_pl.tensors import refuse_inflating


class TextEncoder(FrozenBackbone):
    """A transformers encoder; its last hidden states are the report tokens.

    Each distinct report is encoded once and kept, so a report costs one forward pass a run.

    Args:
        source: Folder, or hub id, of a transformers encoder with its tokenizer.
        revision: Commit of the hub repository; ``None`` for a folder.
        max_tokens: Longer reports are cut to this many tokens, [CLS] and [SEP] included.
        name: Name for logs and tables.
        cache_size: Reports that are kept at most; the least recently used one goes first.

    Attributes:
        width: Width of a token, D_T.
        encoded: Number of reports encoded so far, repetitions not counted.

    Raises:
        WeightsError: If the encoder is neither on disk nor reachable, or lacks weights.
        ConfigError: If ``max_tokens`` leaves room for no word.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        max_tokens: int = 64,
        name: str | None = None,
        cache_size: int = 4096,
    ) -> None:
        super().__init__()
        if max_tokens < 3:
            raise ConfigError(
                f"max_tokens is {max_tokens}: expected more than the 2 that begin and end a report."
            )
        try:
            for file in Path(source).glob("*.bin"):
                refuse_inflating(file)
            # Not to be asked whether code that comes with the encoder shall be run.
            options = {"revision": revision, "trust_remote_code": False}
            self.tokenizer = AutoTokenizer.from_pretrained(source, **options)
            # Half-precision files would otherwise load as such.
            self.net, loading = AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )
            weights.refuse_gaps(loading)
            self.width = int(self.net.config.hidden_size)
            # Of RoBERTa's positions two are no token's.
            positions = getattr(self.net.config, "max_position_embeddings", max_tokens + 2) - 2
            self.max_tokens = min(max_tokens, self.tokenizer.model_max_length, positions)
        except Exception as error:  # what transformers raises depends on what is wrong with a file
            raise WeightsError(
                f"Text encoder {source!r} could not be loaded: {weights.reason(error)}. Give "
                "the folder or the hub id of a transformers encoder. "
                f"{elsewhere(name or source)}"
            ) from error
        self.cache_size = cache_size
        self.encoded = 0
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self.freeze(name or source, pretrained=True)

    def forward(self, reports: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encodes a batch of reports.

        Returns:
            Tokens [B, N, D_T] and a mask [B, N], true where a token is valid and false where it
            pads a shorter report.
        """
        for text in dict.fromkeys(reports):
            if text not in self._cache:
                self._cache[text] = self._encode(text)
        device = next(self.net.parameters()).device
        encoded = []
        for text in reports:
            self._cache.move_to_end(text)
            encoded.append(self._cache[text].to(device))
        lengths = torch.tensor([len(tokens) for tokens in encoded], device=device)
        tokens = pad_sequence(encoded, batch_first=True)
        valid = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return tokens, valid

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        """Tokens [N, D_T] of a report, by itself: their last bits depend on what is beside it."""
        device = next(self.net.parameters()).device
        inputs = self.tokenizer(
            [text], truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device)
        # In full precision whatever the caller's autocast, since these values are kept.
        with torch.autocast(device.type, enabled=False):
            tokens: Tensor = self.net(**inputs).last_hidden_state[0]
        self.encoded += 1
        return tokens.cpu()


def create_text_encoder(name: str, max_tokens: int = 64) -> TextEncoder:
    """Creates a frozen text encoder.

    Args:
        name: ``minilm-l6`` (embedded), the folder of a transformers encoder, or a hub id with its
            revision, ``owner/model@COMMIT``.
        max_tokens: Longer reports are cut to this many tokens.

    Raises:
        WeightsError: If the encoder cannot be loaded.
    """
    if name == "minilm-l6":
        return TextEncoder(str(embedded(name).parent), max_tokens=max_tokens, name=name)
    if (local := local_copy(name)) is not None:
        return TextEncoder(str(local.parent), max_tokens=max_tokens, name=name)
    if Path(name).is_dir():
        return TextEncoder(name, max_tokens=max_tokens)
    source, _, revision = name.partition("@")
    return TextEncoder(source, revision or None, max_tokens, name=name)
