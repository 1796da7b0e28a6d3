"""How much alike two pictures look, and which of many to compare at all."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

NEAREST = 3
"""Pictures that each one is compared with: the nearest perceptual hashes."""
FARTHEST = 90
"""Bits in which two hashes may differ, of 256; chance gives 128. Copies cut by up to 3 % a side,
brightened by 15 % and saved as poor JPEG differed in at most 85."""
SIMILAR = 0.88
"""Similarity from which two pictures count as near-duplicates. Of 820 chest X-rays two pairs of the
same exposure reach 0.96 and all other pairs at most 0.85; stained tissue stays below 0.15. Copies
changed as above reach 0.95 in the middle, and 9 of 10 of them 0.88."""

_ROWS = 256  # hashes compared with all others at a time


def candidates(
    thumbnails: Sequence[NDArray[np.uint8]], sets: Sequence[str], families: Sequence[str]
) -> list[tuple[int, int]]:
    """Chooses the pairs that are worth comparing.

    The hash says of 16 x 16 places whether the picture gets brighter to the right.

    Args:
        thumbnails: Grey pictures.
        sets: The set that each is in; neighbours are sought in each of two kinds, the other sets
            and its own, so that many of one kind do not hide the other.
        families: Pictures of one family and one set are not compared.

    Returns:
        Pairs of indices, the smaller one first, each pair once.
    """
    hashes = np.stack([_hash(thumbnail) for thumbnail in thumbnails])
    own_set = np.unique(np.array(sets), return_inverse=True)[1]
    family = np.unique(np.array(families), return_inverse=True)[1]
    pairs = set()
    for start in range(0, len(hashes), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(hashes)))
        distance = (hashes.shape[1] - hashes[rows] @ hashes.T) / 2
        same_set = own_set[rows][:, None] == own_set
        same_family = family[rows][:, None] == family
        for hidden in (same_set, ~same_set | same_family):
            found = np.where(hidden, np.inf, distance)
            found[np.arange(len(rows)), rows] = np.inf
            nearest = np.argpartition(found, min(NEAREST, len(hashes)) - 1, axis=1)[:, :NEAREST]
            near = np.take_along_axis(found, nearest, axis=1) <= FARTHEST
            for row, column in zip(*near.nonzero(), strict=True):
                one, other = sorted((int(rows[row]), int(nearest[row, column])))
                pairs.add((one, other))
    return sorted(pairs)


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """How much alike two thumbnails are where both show something, once laid over one another.

    Returns:
        Median of the correlations in windows of about a tenth of the side; 0 where they cannot be
        laid over one another.
    """
    warp = np.eye(2, 3, dtype=np.float32)
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    first, second = one.astype(np.float32), other.astype(np.float32)
    try:
        _, warp = cv2.findTransformECC(second, first, warp, cv2.MOTION_AFFINE, rule, None, 5)
    except cv2.error:  # nothing to hold on to: a picture of one colour, or unrelated ones
        return 0.0
    if abs(np.linalg.det(warp[:, :2]) - 1) > 0.3:  # enlarged until hardly anything is left
        return 0.0
    size = second.shape[::-1]
    moved = cv2.warpAffine(first, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(
        np.ones_like(first), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    correlation, contrast = _local_correlation(moved, second)
    telling = (inside > 0) & contrast
    # A fifth at least, so that no small detail decides.
    return float(np.median(correlation[telling])) if telling.mean() > 0.2 else 0.0


def _local_correlation(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Correlation around each pixel, and where either picture has more than noise there."""

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), 3), np.float32)

    noise = np.float32(4)  # variance of grey values
    means = mean(one), mean(other)
    variances = mean(one * one) - means[0] ** 2, mean(other * other) - means[1] ** 2
    covariance = mean(one * other) - means[0] * means[1]
    scale = np.sqrt((variances[0].clip(0) + noise) * (variances[1].clip(0) + noise))
    return np.asarray(covariance / scale, np.float32), np.maximum(*variances) > noise


def _hash(thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(thumbnail, (17, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.where(small[:, 1:] > small[:, :-1], 1, -1).astype(np.float32).ravel()
