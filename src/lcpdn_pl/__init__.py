"""Text-guided medical image segmentation with few labels, on PyTorch Lightning."""

from importlib.metadata import version

__version__ = version("lcpdn_pl")
