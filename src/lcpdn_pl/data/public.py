"""Public data sets in LViT's layout, on fixed few-label protocols."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd
from jsonargparse.typing import NonNegativeInt, PositiveInt

from lcpdn_pl.data.corruptions import Corruption
from lcpdn_pl.data.datamodule import Augment, SegmentationDataModule, TestReports
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.masks import MaskRule
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.samples import select
from lcpdn_pl.errors import ConfigError

ROOT_VARIABLE = "LCPDN_DATA_ROOT"


class PublicDataModule(SegmentationDataModule):
    """A public data set in LViT's layout, by default on a fixed few-label protocol.

    Args:
        root: Folder of the data set; null looks in ``$LCPDN_DATA_ROOT/<folder>`` or, where that
            is not set, in ``data/<folder>``.
        protocol: Fixed list of names to use, or ``full`` for all splits as they lie on disk.
        image_size: See :class:`SegmentationDataModule`, as for all below.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full``, ``mild`` (for grey images), ``dihedral``
            (flips and quarter turns alone) or ``none``.
        mask_rule: How training and validation masks are resized, ``compat`` or ``native``.
        test_reports: What the test split's reports are replaced by: ``right`` (nothing),
            ``shuffled``, ``empty`` or ``contradicting``.
        test_corruption: How test images are made worse: ``none``, ``noise``, ``blur``, ``jpeg`` or
            ``contrast``.
        test_strength: How much, 1 to 5.
        unlabelled: Images without masks for training: null, ``rest`` (the training images that the
            protocol leaves out) or a folder.
        train_images: How many training images are used: the protocol's first ones or, beyond
            those, the first of the rest; null takes the protocol's.

    Attributes:
        folder: Name of the folder under the data root.
        protocols: Names of the protocols, and the lists that they stand for.

    Raises:
        ConfigError: If the protocol is unknown; lists those there are.
    """

    folder: ClassVar[str]
    protocols: ClassVar[Mapping[str, str]]

    def __init__(
        self,
        root: str | None = None,
        protocol: str = "paper",
        image_size: PositiveInt = 256,
        batch_size: PositiveInt = 1,
        num_workers: NonNegativeInt = 0,
        augment: Augment = "full",
        mask_rule: MaskRule = "compat",
        test_reports: TestReports = "right",
        test_corruption: Corruption = "none",
        test_strength: int = 1,
        unlabelled: str | None = None,
        train_images: int | None = None,
    ) -> None:
        super().__init__(
            image_size,
            batch_size,
            num_workers,
            augment,
            mask_rule,
            test_reports,
            test_corruption,
            test_strength,
            unlabelled,
        )
        known = [*self.protocols, "full"]
        if protocol not in known:
            raise ConfigError(
                f"{type(self).__name__} has no protocol {protocol!r}; "
                f"use one of {', '.join(known)}."
            )
        self.root = data_root(root, self.folder)
        self.protocol = protocol
        self.train_images = train_images

    def read_samples(self) -> pd.DataFrame:
        """See :meth:`SegmentationDataModule.read_samples`."""
        return self._divided()[0]

    def read_rest(self) -> pd.DataFrame:
        """The images of the folder's training split that the run does not train on."""
        return self._divided()[1]

    def _divided(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The run's samples, and the training images that it leaves out."""
        samples = read_lvit(self.root)
        rest = samples[:0]
        if self.protocol != "full":
            protocol = read_protocol(self.protocols[self.protocol])
            trains = samples["split"] == "train"
            rest = samples[trains & ~samples["name"].isin(protocol["name"])]
            samples = select(samples, protocol, self.protocol)
        if self.train_images is None:
            return samples, rest
        trains = samples["split"] == "train"
        pool = pd.concat([samples[trains], rest], ignore_index=True)
        if not 0 < self.train_images <= len(pool):
            raise ConfigError(
                f"data.train_images is {self.train_images}: {self.root} has {len(pool)} training "
                "images. Ask for one of them at least and all at most, or leave it null."
            )
        taken = pd.concat([pool[: self.train_images], samples[~trains]], ignore_index=True)
        return taken, pool[self.train_images :]


def data_root(root: str | None, folder: str) -> Path:
    """Where a data set lies: ``root``, or ``folder`` under ``$LCPDN_DATA_ROOT`` or ``data``.

    Raises:
        ConfigError: If ``root`` is empty, as a variable of the shell is that was not set.
    """
    if root == "":
        raise ConfigError("root is empty: expected a folder. Give one, or leave the setting out.")
    return Path(root) if root else Path(os.environ.get(ROOT_VARIABLE, "data"), folder)
