"""QaTa-COV19: infections in chest X-rays."""

from collections.abc import Mapping
from typing import ClassVar

from lcpdn_pl.data.public import PublicDataModule


class QaTaCOV19(PublicDataModule):
    """QaTa-COV19 v2 with LViT's reports.

    Protocol ``paper``: 150 training, 30 validation and 50 test images.

    Degerli et al., "OSegNet: Operational segmentation network for COVID-19 detection using chest
    X-ray images", ICIP 2022.
    """

    name = "qata_cov19"
    folder = "QaTa-COV19"
    foreground = (255,)
    protocols: ClassVar[Mapping[str, str]] = {"paper": "qata_cov19"}
