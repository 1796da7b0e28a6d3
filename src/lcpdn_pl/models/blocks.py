"""Layers that several methods share."""

from torch import nn


class PixelClassifier(nn.Sequential):
    """Two 3x3 convolutions with batch norm, then one to the two classes (LCPDN's eq. 11).

    Args:
        in_width: Channels of what is classified.
        widths: Channels of the two hidden layers.
    """

    def __init__(self, in_width: int, widths: tuple[int, int]) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(in_width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            in_width = width
        super().__init__(*layers, nn.Conv2d(in_width, 2, 3, padding=1))
