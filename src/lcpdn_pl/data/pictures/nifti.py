"""Slices of NIfTI volumes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lcpdn_pl.data.pictures.base import (
    FULL_RANGE,
    DecodedPicture,
    Picture,
    Pixels,
    Range,
    choose_slice,
    to_rgb,
)
from lcpdn_pl.errors import ConfigError, DataError


def is_nifti(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path, slice: int | None, window: tuple[float, float] | None) -> Picture:
    """Opens a slice of a volume; arguments as of :func:`lcpdn_pl.data.pictures.open_picture`.

    Slices are axial and counted from below, unless the volume is one slice of another plane. They
    are shown as radiologists see them: the patient's right on the left, anterior (or superior) up.

    Raises:
        DataError: If it is unreadable, too large, or no volume of numbers.
        ConfigError: If nibabel is missing, or the slice does not exist.
    """
    image = _load(path)
    shape = (*image.shape, 1, 1)[: max(3, len(image.shape))]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or not np.issubdtype(image.get_data_dtype(), np.number):
        raise DataError(
            f"{path}: expected a volume of numbers with three axes, found {len(shape)} axes of "
            f"{image.get_data_dtype()}. Save one volume of it."
        )
    stored, flipped = _orientation(path, image)
    # By direction: right, anterior, superior.
    lengths = [shape[axis] for axis in stored]
    across = lengths.index(1) if lengths.count(1) == 1 else 2
    index = choose_slice(str(path), lengths[across], slice)
    width, height = (lengths[direction] for direction in range(3) if direction != across)
    low, high = (float(image.header[key]) for key in ("cal_min", "cal_max"))
    own = Range(low, high, "the file's own range") if high > low else None
    limits = Range.of(window) if window else own
    place = (lengths[across] - 1 - index) if flipped[across] else index
    decode = partial(_decode, path, across, place, limits)
    return DecodedPicture(str(path), height, width, decode, limits.note if limits else FULL_RANGE)


def _load(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(
            f"{path} is a NIfTI file, which needs nibabel. Install it: pip install "
            "'lcpdn_pl[nifti]'."
        ) from error
    try:
        image = nibabel.load(path)
    except Exception as error:  # torn files raise what they like
        raise DataError(
            f"{path}: expected a NIfTI volume, found none that can be read ({error}). Export it "
            "again."
        ) from error
    return image


def _orientation(path: Path, image: Any) -> tuple[list[int], list[bool]]:
    """Which stored axis runs along right, anterior and superior, and whether it runs backwards."""
    from nibabel.orientations import io_orientation

    table = io_orientation(image.affine)
    if np.isnan(table).any():
        raise DataError(
            f"{path}: expected an affine that gives each axis a direction, found one that does "
            "not. Write it anew, or export the slice as PNG."
        )
    stored = [int(np.flatnonzero(table[:, 0] == direction)[0]) for direction in range(3)]
    return stored, [bool(table[axis, 1] < 0) for axis in stored]


def _decode(path: Path, across: int, place: int, limits: Range | None) -> Pixels:
    image = _load(path)
    stored, flipped = _orientation(path, image)
    where: list[Any] = [slice(None)] * len(image.shape)
    if stored[across] < len(image.shape):
        where[stored[across]] = place
    try:
        plane = np.asarray(image.dataobj[tuple(where)])
    except Exception as error:  # as above
        raise DataError(
            f"{path}: its slice cannot be read ({error}). Download or export it again."
        ) from error
    horizontal, vertical = (direction for direction in range(3) if direction != across)
    plane = plane.reshape(plane.shape[:2])  # a fourth axis has one entry
    if stored[horizontal] > stored[vertical]:
        plane = plane.T
    if flipped[horizontal]:
        plane = plane[::-1]
    if flipped[vertical]:
        plane = plane[:, ::-1]
    return to_rgb(plane[::-1, ::-1].T, limits)
