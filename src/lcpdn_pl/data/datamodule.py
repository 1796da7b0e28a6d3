"""What all data modules share: from a samples table to loaders."""

import os
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lcpdn_pl.data.dataset import EpochSampler, Sample, SegmentationDataset
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.mask_reports import MASK_SOURCE
from lcpdn_pl.data.masks import MaskRule
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.reports import contradict
from lcpdn_pl.data.samples import check_samples, select
from lcpdn_pl.data.transforms import Augmentation
from lcpdn_pl.errors import ConfigError

ROOT_VARIABLE = "LCPDN_DATA_ROOT"

Augment = Literal["full", "dihedral", "none"]
TestReports = Literal["right", "shuffled", "empty", "contradicting"]


class DataModule(lightning.LightningDataModule):
    """What the command line needs of data.

    Attributes:
        name: Name in run folders and tables.
        samples: Table of what there is, with at least the columns image and split, set by
            ``setup``.
    """

    name: str
    samples: pd.DataFrame


class SegmentationDataModule(DataModule):
    """Loaders over one samples table, which is read and checked once.

    Images are resized to a square. Training and validation masks are resized with them by
    ``mask_rule``; at test and predict time masks stay at their own size and come one by one, since
    both mask rules are scored from there.

    Args:
        image_size: Side that images are resized to.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full`` (:class:`Augmentation`), ``dihedral`` (its
            flips and quarter turns alone, eight images of each at most) or ``none``.
        mask_rule: ``compat`` or ``native``, see :func:`lcpdn_pl.data.masks.resize_mask`.
        test_reports: What the test split's reports are replaced by, to measure their worth:
            ``right`` (nothing), ``shuffled`` (another image's), ``empty`` or ``contradicting``
            (:func:`lcpdn_pl.data.reports.contradict`).

    Attributes:
        samples: Samples table, set by ``setup``.
    """

    foreground: Collection[int]
    ignore: int | None = None

    def __init__(
        self,
        image_size: int = 256,
        batch_size: int = 1,
        num_workers: int = 0,
        augment: Augment = "full",
        mask_rule: MaskRule = "compat",
        test_reports: TestReports = "right",
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.mask_rule = mask_rule
        self.test_reports = test_reports
        self.samples = pd.DataFrame()
        self._checked: set[str] = set()

    @abstractmethod
    def read_samples(self) -> pd.DataFrame:
        """Reads the samples table from disk.

        Raises:
            DataError: If what is on disk is not as the layout promises.
        """

    def setup(self, stage: str) -> None:
        """Reads and checks the samples, all splits at once, so that overlaps are found.

        Raises:
            DataError: Lists everything that is wrong with the data.
        """
        if stage not in self._checked:
            samples = self.read_samples() if self.samples.empty else self.samples
            needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
            check_samples(samples, needed.get(stage, ()))
            if self.samples.empty:
                _warn_of_leakage(samples)
            self.samples = samples
            self._checked.add(stage)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented."""
        samples = self.samples[self.samples["split"] == "train"]
        augmentation = (
            None if self.augment == "none" else Augmentation(small=self.augment == "full")
        )
        dataset = self._dataset(samples, self.mask_rule, augmentation)
        return self._loader(dataset, self.batch_size, EpochSampler(len(dataset), run_seed()))

    def val_dataloader(self) -> DataLoader[Sample]:
        """In order, masks by ``mask_rule``."""
        samples = self.samples[self.samples["split"] == "val"]
        return self._loader(self._dataset(samples, self.mask_rule), self.batch_size)

    def test_dataloader(self) -> DataLoader[Sample]:
        """In order, one by one, masks at their own size."""
        samples = self.samples[self.samples["split"] == "test"]
        if self.test_reports != "right":
            samples = samples.assign(text=self._other_reports(samples["text"].tolist()))
        return self._loader(self._dataset(samples), 1)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The split ``predict`` or, where there is none, ``test``; one by one."""
        splits = set(self.samples["split"])
        split = "predict" if "predict" in splits else "test"
        return self._loader(self._dataset(self.samples[self.samples["split"] == split]), 1)

    def _other_reports(self, reports: list[str]) -> list[str]:
        if self.test_reports == "empty":
            return [""] * len(reports)
        if self.test_reports == "contradicting":
            return [contradict(report) for report in reports]
        # Each image gets the report of the next one in a random cycle: never its own.
        order = np.random.default_rng(run_seed()).permutation(len(reports))
        shuffled = list(reports)
        for index, source in zip(order, np.roll(order, 1), strict=True):
            shuffled[index] = reports[source]
        return shuffled

    def _dataset(
        self,
        samples: pd.DataFrame,
        mask_rule: MaskRule | None = None,
        augmentation: Augmentation | None = None,
    ) -> SegmentationDataset:
        return SegmentationDataset(
            samples, self.image_size, self.foreground, self.ignore, mask_rule, augmentation
        )

    def _loader(
        self, dataset: SegmentationDataset, batch_size: int, sampler: EpochSampler | None = None
    ) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class PublicDataModule(SegmentationDataModule):
    """A public data set in LViT's layout, by default on a fixed few-label protocol.

    Args:
        root: Folder of the data set; null looks in ``$LCPDN_DATA_ROOT/<folder>`` or, where that
            is not set, in ``data/<folder>``.
        protocol: Fixed list of names to use, or ``full`` for all splits as they lie on disk.
        image_size: See :class:`SegmentationDataModule`, as for all below.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full``, ``dihedral`` (flips and quarter turns alone)
            or ``none``.
        mask_rule: How training and validation masks are resized, ``compat`` or ``native``.
        test_reports: What the test split's reports are replaced by: ``right`` (nothing),
            ``shuffled``, ``empty`` or ``contradicting``.

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
        image_size: int = 256,
        batch_size: int = 1,
        num_workers: int = 0,
        augment: Augment = "full",
        mask_rule: MaskRule = "compat",
        test_reports: TestReports = "right",
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, augment, mask_rule, test_reports)
        known = [*self.protocols, "full"]
        if protocol not in known:
            raise ConfigError(
                f"{type(self).__name__} has no protocol {protocol!r}; "
                f"use one of {', '.join(known)}."
            )
        self.root = data_root(root, self.folder)
        self.protocol = protocol

    def read_samples(self) -> pd.DataFrame:
        """See :meth:`SegmentationDataModule.read_samples`."""
        samples = read_lvit(self.root)
        if self.protocol == "full":
            return samples
        return select(samples, read_protocol(self.protocols[self.protocol]), self.protocol)


def _warn_of_leakage(samples: pd.DataFrame) -> None:
    """Warns of reports that were made from the masks that they help to find."""
    made = samples[samples["source"] == MASK_SOURCE] if "source" in samples else samples[:0]
    counts = made["split"].value_counts()
    if found := [f"{counts[split]} {split}" for split in ("val", "test") if split in counts]:
        rank_zero_warn(
            f"LEAKAGE: the reports of {' and '.join(found)} images were made from their masks "
            "(source: mask). They tell a network what it is to find, so that figures of these "
            "splits are too good. Give these images reports that someone wrote."
        )


def run_seed() -> int:
    """The seed that ``seed_everything`` set: it decides sample order and augmentation too."""
    return torch.initial_seed() % 2**32


def data_root(root: str | None, folder: str) -> Path:
    """Where a data set lies: ``root``, or ``folder`` under ``$LCPDN_DATA_ROOT`` or ``data``."""
    return Path(root) if root else Path(os.environ.get(ROOT_VARIABLE, "data"), folder)
