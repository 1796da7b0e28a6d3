"""Segmentation networks, one folder a method."""

from typing import Any

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.c2fvl.network import C2FVL
from lcpdn_pl.models.lcpdn.network import LCPDN
from lcpdn_pl.models.lvit.network import LViT
from lcpdn_pl.models.medsegdiff.network import MedSegDiff
from lcpdn_pl.models.mgcc.network import MGCC
from lcpdn_pl.models.pixels.network import Pixels
from lcpdn_pl.models.reclmis.network import RecLMIS
from lcpdn_pl.models.textdiff.network import TextDiff
from lcpdn_pl.models.uctransnet.network import UCTransNet
from lcpdn_pl.models.unet.network import UNet

NETWORKS: dict[str, type[Network]] = {
    "lcpdn": LCPDN,
    "c2fvl": C2FVL,
    "lvit": LViT,
    "medsegdiff": MedSegDiff,
    "mgcc": MGCC,
    "pixels": Pixels,
    "reclmis": RecLMIS,
    "textdiff": TextDiff,
    "uctransnet": UCTransNet,
    "unet": UNet,
}

__all__ = [
    "C2FVL",
    "LCPDN",
    "MGCC",
    "NETWORKS",
    "LViT",
    "MedSegDiff",
    "Network",
    "Pixels",
    "RecLMIS",
    "TextDiff",
    "UCTransNet",
    "UNet",
    "create",
]


def create(name: str, **config: Any) -> Network:
    """Creates a network by its method's name.

    Args:
        name: A key of ``NETWORKS``, the name of the method's overlay in ``configs/methods``.
        **config: Arguments of the network's constructor.

    Raises:
        ConfigError: If there is no such method; lists those there are.
    """
    if name not in NETWORKS:
        raise ConfigError(f"Unknown method {name!r}; expected one of {', '.join(NETWORKS)}.")
    return NETWORKS[name](**config)
