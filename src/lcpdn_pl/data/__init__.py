"""Images, masks and reports: reading, checking, augmenting and loading."""

from lcpdn_pl.data.datamodule import DataModule, SegmentationDataModule
from lcpdn_pl.data.monuseg import MoNuSeg
from lcpdn_pl.data.mosmed_plus import MosMedPlus
from lcpdn_pl.data.own import Manifest
from lcpdn_pl.data.phantom import Phantom
from lcpdn_pl.data.pool import ImagePool, Source
from lcpdn_pl.data.qata_cov19 import QaTaCOV19

__all__ = [
    "DataModule",
    "ImagePool",
    "Manifest",
    "MoNuSeg",
    "MosMedPlus",
    "Phantom",
    "QaTaCOV19",
    "SegmentationDataModule",
    "Source",
]
