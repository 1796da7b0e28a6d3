"""What every frozen backbone has in common."""

import hashlib
import logging
from typing import Self

from torch import Tensor, nn

from lcpdn_pl.errors import ConfigError

log = logging.getLogger(__name__)


class FrozenBackbone(nn.Module):
    """A network that is used but never trained.

    Its parameters need no gradient (gradients still flow *through* it), it works in eval mode
    whatever mode its owner or one of its parts is put in, and its weights are left out of
    checkpoints. A method that is called by another name than ``forward`` starts with ``eval()``.

    Attributes:
        name: What was loaded, as the configuration names it.
        pretrained: Whether the weights were trained; if not, every log and table says RANDOM.
    """

    name: str = ""
    pretrained: bool = False

    def freeze(self, name: str, pretrained: bool) -> Self:
        """Freezes the weights, sets the names, and says in one log line what was loaded."""
        self.name = name
        self.pretrained = pretrained
        self.requires_grad_(False)
        self.train()
        self.register_forward_pre_hook(_put_back)  # parts can be put in train mode one by one
        level = logging.INFO if pretrained else logging.WARNING
        log.log(level, "%s: %s", type(self).__name__, self.describe())
        return self

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - a frozen network has one mode
        """Stays in eval mode, so that normalisation statistics and dropout never move."""
        return super().train(False)

    def describe(self) -> str:
        """One phrase for logs and tables, e.g. ``minilm-l6, 22.7 M parameters, pretrained``."""
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        return f"{self.name}, {millions:.1f} M parameters, {self.provenance}"

    @property
    def provenance(self) -> str:
        """``pretrained`` or ``RANDOM``."""
        return "pretrained" if self.pretrained else "RANDOM"

    def fingerprint(self) -> str:
        """Hash of all weights, so that others under the same name are found out."""
        digest = hashlib.blake2b(digest_size=8)
        for key, tensor in self.state_dict().items():
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _put_back(backbone: FrozenBackbone, _inputs: object) -> None:
    backbone.eval()


def frozen_backbones(network: nn.Module) -> dict[str, FrozenBackbone]:
    """The frozen parts of a network, by their dotted names."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, FrozenBackbone)
    }


def check_sides(image: Tensor, divisor: int, name: str) -> None:
    """Refuses images that do not go through a network's levels.

    Args:
        image: [..., H, W].
        divisor: What both sides must be multiples of.
        name: The network, for the message.

    Raises:
        ConfigError: If a side is no multiple; tells the size to use.
    """
    height, width = image.shape[-2:]
    if height % divisor or width % divisor:
        up = [-(-side // divisor) * divisor for side in (height, width)]
        raise ConfigError(
            f"Image is {height} x {width}, but the sides must be multiples of {divisor} for "
            f"{name}; resize it to {up[0]} x {up[1]}."
        )
