"""What all data modules share: from a samples table to loaders."""

import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lcpdn_pl.data.corruptions import Corruption
from lcpdn_pl.data.dataset import Sample, SegmentationDataset, WithUnlabelled
from lcpdn_pl.data.draws import EpochSampler, TrainingLoader
from lcpdn_pl.data.images import list_images
from lcpdn_pl.data.mask_reports import MASK_SOURCE
from lcpdn_pl.data.masks import MaskRule
from lcpdn_pl.data.reports import contradict
from lcpdn_pl.data.samples import COLUMNS, check_samples
from lcpdn_pl.data.transforms import Augmentation
from lcpdn_pl.errors import ConfigError, DataError

Augment = Literal["full", "mild", "dihedral", "none"]
TestReports = Literal["right", "shuffled", "empty", "contradicting"]
REST = "rest"
"""As ``unlabelled``: the training images that the protocol leaves out."""


class DataModule(lightning.LightningDataModule):
    """What the command line needs of data.

    Attributes:
        name: Name in run folders and tables.
        samples: Table of what there is, with at least the columns image and split, set by
            ``setup``.
    """

    name: str
    samples: pd.DataFrame

    def describe(self) -> str:
        """The data's row of the summary that is printed before a run."""
        counts = self.samples["split"].value_counts(sort=False)
        return f"{self.name}: {', '.join(f'{count} {split}' for split, count in counts.items())}"

    def _worker_start(self) -> Callable[[int], None]:
        """What a loader process does first, its loader's ``worker_init_fn``."""
        rank = 0 if self.trainer is None else self.trainer.global_rank
        # Lightning seeds loader processes where this is set, but not those with a start of their
        # own. Looked up here: a process may be started with an environment from before.
        seeded = bool(int(os.environ.get("PL_SEED_WORKERS", "0")))
        return partial(start_worker, rank=rank, seeded=seeded)


class SegmentationDataModule(DataModule):
    """Loaders over one samples table, which is read and checked once.

    Images are resized to a square. Training and validation masks are resized with them by
    ``mask_rule``; at test and predict time masks stay at their own size and come one by one, since
    both mask rules are scored from there.

    Args:
        image_size: Side that images are resized to.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full`` or ``mild`` (:class:`Augmentation`),
            ``dihedral`` (its flips and quarter turns alone, eight images of each at most) or
            ``none``.
        mask_rule: ``compat`` or ``native``, see :func:`lcpdn_pl.data.masks.resize_mask`.
        test_reports: What the test split's reports are replaced by, to measure their worth:
            ``right`` (nothing), ``shuffled`` (another image's, in other words), ``empty`` or
            ``contradicting`` (:func:`lcpdn_pl.data.reports.contradict`).
        test_corruption: How test images are made worse: ``none``, ``noise``, ``blur``, ``jpeg`` or
            ``contrast``.
        test_strength: How much, 1 to 5.
        unlabelled: Images without masks for training: null for none, ``rest`` for the training
            images of the data set that its protocol leaves out, or a folder. Each training sample
            comes with one of them, drawn at random and augmented like it.

    Attributes:
        samples: Samples table, set by ``setup``.
        turns: Whether augmentation may turn images whose reports can follow, or only mirror them.
    """

    foreground: Collection[int]
    ignore: int | None = None
    turns: bool = True

    def __init__(
        self,
        image_size: PositiveInt = 256,
        batch_size: PositiveInt = 1,
        num_workers: NonNegativeInt = 0,
        augment: Augment = "full",
        mask_rule: MaskRule = "compat",
        test_reports: TestReports = "right",
        test_corruption: Corruption = "none",
        test_strength: int = 1,
        unlabelled: str | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.mask_rule = mask_rule
        self.test_reports = test_reports
        self.test_corruption = test_corruption
        self.test_strength = test_strength
        self.unlabelled = unlabelled
        self.samples = pd.DataFrame()
        self._checked: set[str] = set()
        self._seed = 0

    @abstractmethod
    def read_samples(self) -> pd.DataFrame:
        """Reads the samples table from disk.

        Raises:
            DataError: If what is on disk is not as the layout promises.
        """

    def read_rest(self) -> pd.DataFrame:
        """Reads the samples that ``unlabelled: rest`` stands for; none if not overridden."""
        return pd.DataFrame(columns=list(COLUMNS))

    def setup(self, stage: str) -> None:
        """Reads and checks the samples, all splits at once, so that overlaps are found.

        To fit, images without masks are among them, as the split ``unlabelled``.

        Raises:
            DataError: Lists everything that is wrong with the data.
        """
        self._seed = run_seed()
        if stage not in self._checked:
            samples = self.read_samples() if self.samples.empty else self.samples
            if stage == "fit" and self.unlabelled is not None:
                samples = pd.concat([samples, self._read_unlabelled()], ignore_index=True)
            needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
            check_samples(samples, needed.get(stage, ()))
            if stage == "predict" and not {"predict", "test"} & set(samples["split"]):
                raise DataError(
                    f"{self.name}: expected images of the split predict or, without any, of test, "
                    "found none of either. Name them in the table."
                )
            if self.samples.empty:
                _warn_of_leakage(samples)
            self.samples = samples
            self._checked.add(stage)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented."""
        samples = self.samples[self.samples["split"] == "train"]
        augmentation = None if self.augment == "none" else Augmentation(self.augment, self.turns)
        dataset = self._dataset(samples, self.mask_rule, augmentation)
        sampler = EpochSampler(len(dataset), self._seed, *self._share())
        if self.unlabelled is None:
            return self._loader(dataset, self.batch_size, sampler)
        unlabelled = self.samples[self.samples["split"] == "unlabelled"]
        pool = self._dataset(unlabelled, self.mask_rule, augmentation)
        return self._loader(WithUnlabelled(dataset, pool), self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader[Sample]:
        """In order, masks by ``mask_rule``.

        Raises:
            ConfigError: If there are fewer images than processes.
        """
        samples = self._share_out("val")
        return self._loader(self._dataset(samples, self.mask_rule), self.batch_size)

    def test_dataloader(self) -> DataLoader[Sample]:
        """In order, one by one, masks at their own size.

        Raises:
            ConfigError: If there are fewer images than processes.
        """
        samples = self._share_out("test")
        if self.test_reports != "right":
            samples = samples.assign(text=self._other_reports(samples["text"].tolist()))
        dataset = self._dataset(samples)
        dataset.corruption = (self.test_corruption, self.test_strength)
        return self._loader(dataset, 1)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The split ``predict`` or, where there is none, ``test``; one by one.

        Raises:
            ConfigError: If there are fewer images than processes.
        """
        splits = set(self.samples["split"])
        split = "predict" if "predict" in splits else "test"
        return self._loader(self._dataset(self._share_out(split)), 1)

    def describe(self) -> str:
        """See :meth:`DataModule.describe`; says where images without masks come from."""
        described = super().describe()
        if "unlabelled" not in set(self.samples["split"]):
            return described
        source = "rest of the training images" if self.unlabelled == REST else self.unlabelled
        return f"{described} ({source})"

    def _read_unlabelled(self) -> pd.DataFrame:
        assert self.unlabelled is not None  # noqa: S101 - what the caller looked at
        if self.unlabelled == REST:
            rest = self.read_rest()
            if rest.empty:
                raise ConfigError(
                    f"data.unlabelled is {REST}, but {self.name} has no training images besides "
                    "those it trains on: expected a protocol that leaves some out. Choose one, or "
                    "give a folder of images."
                )
            return rest.assign(mask="", split="unlabelled")
        images = list(map(str, list_images(Path(self.unlabelled))))
        if not images:
            raise DataError(
                f"{self.unlabelled}: expected a folder with images for data.unlabelled, found "
                f"none. Correct the path, or set {REST} or null."
            )
        empty = dict.fromkeys(COLUMNS, "")
        return pd.DataFrame([empty | {"image": path, "name": path} for path in images]).assign(
            split="unlabelled"
        )

    def _other_reports(self, reports: list[str]) -> list[str]:
        if self.test_reports == "empty":
            return [""] * len(reports)
        if self.test_reports == "contradicting":
            opposites = [contradict(report) for report in reports]
            same = sum(one == two for one, two in zip(opposites, reports, strict=True))
            if same:
                rank_zero_warn(
                    f"data.test_reports is contradicting, but {same} of the {len(reports)} test "
                    "reports have no opposite, or none that is understood, and stay as they are: "
                    "the figures are of right reports, too."
                )
            return opposites
        # Of another image, whose words differ: half of MoNuSeg's test images share theirs, so that
        # to exchange reports between images would leave many as they were.
        if len(set(reports)) == 1:
            raise DataError(
                f"data.test_reports is shuffled, but all {len(reports)} test images have the same "
                f"report, {reports[0]!r}: expected another one for each. Take empty or "
                "contradicting."
            )
        rng = np.random.default_rng(self._seed)
        others = ([other for other in reports if other != report] for report in reports)
        return [other[rng.integers(len(other))] for other in others]

    def _share_out(self, split: str) -> pd.DataFrame:
        """Samples of a split, of which every process takes its share."""
        samples = self.samples[self.samples["split"] == split]
        processes = self._share()[1]
        if len(samples) < processes:
            raise ConfigError(
                f"{self.name}: {len(samples)} {split} images for {processes} processes, expected "
                f"at least one for each. Set --trainer.devices to {len(samples)} or less."
            )
        return samples

    def _share(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )

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
        self,
        dataset: SegmentationDataset | WithUnlabelled,
        batch_size: int,
        sampler: EpochSampler | None = None,
    ) -> DataLoader[Sample]:
        kind = DataLoader if sampler is None else TrainingLoader
        return kind(
            dataset,
            batch_size=batch_size,
            # In order, each image in one process alone: none is counted twice.
            sampler=sampler or range(self._share()[0], len(dataset), self._share()[1]),
            num_workers=self.num_workers,
            worker_init_fn=self._worker_start(),
            persistent_workers=self.num_workers > 0,
        )


def start_worker(worker: int, rank: int, seeded: bool) -> None:
    """Has a loader process leave Ctrl-C to the process that it loads for.

    A terminal's Ctrl-C goes to all of them. A loader process that died of it would end the run in
    the middle of the step that is to be kept.

    Args:
        worker: Number of the loader process.
        rank: Number of the process that it loads for.
        seeded: Whether it is seeded as Lightning does it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if seeded:
        pl_worker_init_function(worker, rank)


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
