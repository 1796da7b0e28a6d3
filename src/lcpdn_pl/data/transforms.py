"""From an image and a mask on disk to a training example, and the augmentation between."""

import os
import random
import re

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network otherwise

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SIDE_WORDS = re.compile(
    r"\b(left|right|upper|lower|top|bottom|middle|unilateral)\b", re.IGNORECASE
)


def names_a_side(report: str) -> bool:
    """Whether a report says where something lies, so that a flip would make it false."""
    return _SIDE_WORDS.search(report) is not None


def resize_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Brings an image [H, W, 3] to [size, size, 3]; area-averaged when it shrinks."""
    shrinks = size < min(image.shape[:2])
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), np.uint8)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] in 0..255 to float32 [3, H, W] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


class Augmentation:
    """Random changes of an image and its mask under which its report stays true.

    Colour, blur and small shifts, turns and zooms are drawn for every sample; flips and quarter
    turns only where the report names no side.
    """

    def __init__(self) -> None:
        small = [
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=0.05,
                rotate=(-10, 10),
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.5,
            ),
            A.RandomBrightnessContrast(0.2, 0.2, p=0.5),
            A.HueSaturationValue(10, 20, 0, p=0.5),
            A.GaussianBlur(sigma_limit=(0.1, 1.0), p=0.1),
        ]
        turns = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5)]
        self._sided = A.Compose(small)
        self._free = A.Compose(turns + small)

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], report: str, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Changes an image and its mask; the same seed makes the same change.

        Args:
            image: [H, W, 3] in 0..255.
            mask: [H, W].
            report: Decides which changes are allowed.
            seed: Of this draw alone, so that neither workers nor earlier draws matter.
        """
        transform = self._sided if names_a_side(report) else self._free
        # Generators that the transforms share: set_random_seed would start each of them from the
        # same number, so that all are applied together or none is.
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        changed = transform(image=image, mask=mask)
        return changed["image"], changed["mask"]
