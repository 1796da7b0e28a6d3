"""MosMedData+: infections in chest CT slices."""

from collections.abc import Mapping
from typing import ClassVar

from lcpdn_pl.data.public import PublicDataModule


class MosMedPlus(PublicDataModule):
    """MosMedData+ with LViT's reports; both lesion classes (127 and 255) are foreground.

    Protocols of 150 training, 20 validation and 30 test slices: ``paper`` mixes slices of a
    patient over the splits, as the published one does; ``by_volume`` keeps every patient in one
    split, which is the honest question.

    Morozov et al., "MosMedData: Chest CT scans with COVID-19 related findings dataset", 2020.
    """

    name = "mosmed_plus"
    folder = "MosMedDataPlus"
    foreground = (127, 255)
    protocols: ClassVar[Mapping[str, str]] = {
        "paper": "mosmed_plus_mixed",
        "by_volume": "mosmed_plus_by_volume",
    }
