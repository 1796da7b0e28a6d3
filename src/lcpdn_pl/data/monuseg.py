"""MoNuSeg: nuclei in stained tissue."""

from collections.abc import Mapping
from typing import ClassVar

from lcpdn_pl.data.public import PublicDataModule


class MoNuSeg(PublicDataModule):
    """MoNuSeg with one report line an image, as LViT publishes it: 24 / 6 / 14 images.

    Protocol ``paper`` trains on 5 of the 24; ``draw_1`` to ``draw_4`` on other draws of 5. All
    validate on the 6 and test on the 14.

    Kumar et al., "A multi-organ nucleus segmentation challenge", IEEE TMI 2020.
    """

    name = "monuseg"
    folder = "MoNuSeg"
    foreground = (255,)
    protocols: ClassVar[Mapping[str, str]] = {"paper": "monuseg_0"} | {
        f"draw_{i}": f"monuseg_{i}" for i in range(1, 5)
    }
