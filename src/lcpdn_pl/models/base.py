"""What every segmentation network promises."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from lcpdn_pl.backbones.base import frozen_backbones


class Network(nn.Module):
    """A segmentation network: image and report in, logits out.

    Frozen backbones are submodules like any other; they need no gradient and stay in eval mode.
    """

    @abstractmethod
    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """Segments a batch.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            text: B reports; networks that read none ignore them.

        Returns:
            Logits [B, 2, H, W], background first.
        """

    def training_forward(
        self, image: Tensor, text: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Segments a training batch; arguments as of :meth:`forward`.

        Returns:
            Logits, and the network's own terms of the loss by name, each a scalar that is added to
            it. Most networks have none.
        """
        return self(image, text), {}

    def count_parameters(self) -> tuple[int, int]:
        """Numbers of trainable and of frozen parameters."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return trainable, sum(p.numel() for p in self.parameters()) - trainable

    def describe_backbones(self) -> dict[str, str]:
        """One phrase per frozen backbone, by its name in the network."""
        return {name: backbone.describe() for name, backbone in frozen_backbones(self).items()}
