"""QaTa-COV19: infections in chest X-rays."""

from lcpdn_pl.data.datamodule import PublicDataModule


class QaTaCOV19(PublicDataModule):
    """QaTa-COV19 v2 with LViT's reports.

    Protocol ``paper``: 150 training, 30 validation and 50 test images.

    Degerli et al., "OSegNet: Operational segmentation network for COVID-19 detection using chest
    X-ray images", ICIP 2022.
    """

    name = "qata_cov19"
    folder = "QaTa-COV19"
    foreground = (255,)
    protocols = {"paper": "qata_cov19"}
