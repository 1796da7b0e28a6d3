"""Samples as the tasks see them."""

from collections.abc import Collection
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lcpdn_pl.data.corruptions import Corruption, corrupt
from lcpdn_pl.data.images import read_image, read_mask
from lcpdn_pl.data.masks import MaskRule, resize_mask
from lcpdn_pl.data.stamps import Stamps
from lcpdn_pl.data.transforms import Augmentation, resize_image, to_tensor
from lcpdn_pl.metrics import IGNORE


class Sample(TypedDict):
    """One example; a batch stacks the tensors and lists the strings."""

    image: Tensor
    """float32 [3, H, W] in [-1, 1]."""
    mask: Tensor
    """int64 [H, W] in {0, 1}, or 255 for pixels to ignore."""
    text: str
    name: str
    unlabelled: NotRequired[Tensor]
    """Another image without mask, float32 [3, H, W] in [-1, 1]; of training samples alone."""


class Batch(TypedDict):
    """B examples."""

    image: Tensor
    mask: Tensor
    text: list[str]
    name: list[str]
    unlabelled: NotRequired[Tensor]


class SegmentationDataset(Dataset[Sample]):
    """Reads the rows of a samples table.

    Args:
        samples: Samples table, see :mod:`lcpdn_pl.data.samples`.
        image_size: Side of the square that images are resized to.
        foreground: Values of a mask file that are foreground; 0 is background.
        ignore: Value of a mask file that marks pixels to ignore.
        mask_rule: How a mask is resized with its image; ``None`` keeps it at its own size, for
            scoring and prediction.
        augmentation: Applied to draws of :class:`EpochSampler`, text included; ``None`` changes
            nothing.
        corruption: Kind and strength by which images are made worse, see
            :func:`lcpdn_pl.data.corruptions.corrupt`.
    """

    def __init__(
        self,
        samples: pd.DataFrame,
        image_size: int,
        foreground: Collection[int],
        ignore: int | None = None,
        mask_rule: MaskRule | None = None,
        augmentation: Augmentation | None = None,
        corruption: tuple[Corruption, int] = ("none", 1),
    ) -> None:
        # Plain lists: workers share them without copying a frame at each access.
        self.rows = samples[["image", "mask", "text", "name"]].to_numpy().tolist()
        self.stamps = Stamps(path for row in self.rows for path in row[:2])
        self.image_size = image_size
        self.foreground = foreground
        self.ignore = ignore
        self.mask_rule = mask_rule
        self.augmentation = augmentation
        self.corruption = corruption

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int | tuple[int, int]) -> Sample:
        """Reads one sample.

        Args:
            draw: Row number, or row number and augmentation seed.

        Raises:
            DataError: If the image or mask cannot be read, holds unexpected values or has changed
                since the run began.
        """
        index, seed = draw if isinstance(draw, tuple) else (draw, None)
        image_path, mask_path, text, name = self.rows[index]
        self.stamps.refuse_changes(image_path, mask_path)
        image = read_image(Path(image_path))
        if mask_path:
            mask = read_mask(Path(mask_path), self.foreground, self.ignore)
        else:
            mask = np.full(image.shape[:2], IGNORE, np.uint8)
        image = corrupt(resize_image(image, self.image_size), *self.corruption, name)
        if self.mask_rule is not None:
            mask = resize_mask(mask, (self.image_size, self.image_size), self.mask_rule)
        if self.augmentation is not None and seed is not None:
            image, mask, text = self.augmentation(image, mask, text, seed)
        return {
            "image": to_tensor(np.ascontiguousarray(image)),
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "text": text,
            "name": name,
        }


class WithUnlabelled(Dataset[Sample]):
    """Adds an image without mask to each sample, as ``unlabelled``.

    Args:
        labelled: The samples.
        pool: Draws one row for each of them; of its samples only the image is used.
    """

    def __init__(self, labelled: SegmentationDataset, pool: SegmentationDataset) -> None:
        self.labelled = labelled
        self.pool = pool

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, draw: tuple[int, int]) -> Sample:
        """Reads one sample and its companion, which the augmentation seed decides too.

        Args:
            draw: Row number of the sample, and augmentation seed.

        Raises:
            DataError: As in :class:`SegmentationDataset`, for either image.
        """
        _, seed = draw
        # Not the numbers that the sample's own augmentation draws from the seed.
        row, other_seed = np.random.default_rng((seed, 1)).integers((len(self.pool), 2**31))
        companion = self.pool[int(row), int(other_seed)]["image"]
        return {**self.labelled[draw], "unlabelled": companion}
