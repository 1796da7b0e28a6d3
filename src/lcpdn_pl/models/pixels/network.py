"""The floor `pixels`: LCPDN's head on the raw image."""

from collections.abc import Sequence

from torch import Tensor

from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import PixelClassifier


class Pixels(Network):
    """LCPDN's pixel classifier on nothing but colours.

    It sees 7 x 7 pixels, each image's mean and deviation, and no report.

    Args:
        head_widths: Hidden channels of the pixel classifier.
    """

    def __init__(self, head_widths: tuple[int, int] = (64, 32)) -> None:
        super().__init__()
        self.head = PixelClassifier(3, head_widths)

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:  # noqa: ARG002 - reads none
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        logits: Tensor = self.head(image)
        return logits
