"""One's own data, listed in a manifest."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jsonargparse.typing import NonNegativeInt, PositiveInt

from lcpdn_pl.data.corruptions import Corruption
from lcpdn_pl.data.datamodule import Augment, SegmentationDataModule, TestReports
from lcpdn_pl.data.manifest import read_manifest
from lcpdn_pl.data.masks import MaskRule
from lcpdn_pl.errors import ConfigError

FOREGROUND = (1, 255)
"""Mask values that are foreground where nobody says otherwise."""


class Manifest(SegmentationDataModule):
    """Images, masks and reports of a table, see ``data/README.md``.

    Args:
        root: The manifest, a .csv or .jsonl file with the columns image, mask, text and split.
        foreground: Values of a mask file that are foreground; 0 is background and any other value
            is an error.
        ignore: Value of a mask file that marks pixels to ignore; null for none.
        image_size: Side that images are resized to.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full``, ``mild`` (for grey images), ``dihedral``
            (flips and quarter turns alone) or ``none``.
        turns: Augmentation may turn images and stand them on their heads, as of slides, which have
            no up and down; false only mirrors them.
        mask_rule: How training and validation masks are resized, ``compat`` or ``native``.
        test_reports: What the test split's reports are replaced by: ``right`` (nothing),
            ``shuffled``, ``empty`` or ``contradicting``.
        test_corruption: How test images are made worse: ``none``, ``noise``, ``blur``, ``jpeg`` or
            ``contrast``.
        test_strength: How much, 1 to 5.
        unlabelled: Images without masks for training: null, or a folder.

    Raises:
        ConfigError: If ``foreground`` and ``ignore`` overlap or hold 0.
    """

    def __init__(
        self,
        root: str,
        foreground: Sequence[int] = FOREGROUND,
        ignore: int | None = None,
        image_size: PositiveInt = 256,
        batch_size: PositiveInt = 1,
        num_workers: NonNegativeInt = 0,
        augment: Augment = "full",
        turns: bool = False,
        mask_rule: MaskRule = "native",
        test_reports: TestReports = "right",
        test_corruption: Corruption = "none",
        test_strength: int = 1,
        unlabelled: str | None = None,
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
        if not foreground or not {0, ignore}.isdisjoint(foreground) or ignore == 0:
            raise ConfigError(
                f"foreground={list(foreground)} and ignore={ignore} are no mask values: expected "
                "at least one foreground value, none of them 0 (background) or the ignored one."
            )
        self.turns = turns
        self.root = Path(root)
        self.name = self.root.stem
        self.foreground = tuple(foreground)
        self.ignore = ignore

    def read_samples(self) -> pd.DataFrame:
        """See :meth:`SegmentationDataModule.read_samples`."""
        return read_manifest(self.root)
