"""Text-guided medical image segmentation with few labels, on PyTorch Lightning."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcpdn_pl.inference import load

__all__ = ["__version__", "load"]

__version__ = version("lcpdn_pl")


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: it brings torch and all networks with it.
    if name == "load":
        from lcpdn_pl.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
