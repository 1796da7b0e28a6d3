"""Slices of NIfTI volumes."""

import gzip
import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcpdn_pl.data.pictures.base import (
    FULL_RANGE,
    DecodedPicture,
    Picture,
    Pixels,
    Range,
    check_pixels,
    choose_slice,
    to_rgb,
)
from lcpdn_pl.errors import ConfigError, DataError

_MOST_NOTES = 4 * 2**20
_AT_ONCE = 2**25  # values that are read in one step
_SECOND = (540, int.from_bytes((540).to_bytes(4, "big"), "little"))  # sizes of a NIfTI-2 header


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
    stated = np.isfinite([low, high]).all() and high > low
    own = Range(low, high, "the file's own range") if stated else None
    limits = Range.of(window) if window else own
    if stored[across] < 2:
        check_pixels(f"{path}, a slice as it is stored", *shape[:2])
    place = (lengths[across] - 1 - index) if flipped[across] else index
    decode = partial(_decode, path, across, place, limits)
    return DecodedPicture(str(path), height, width, decode, limits.note if limits else FULL_RANGE)


def _load(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(
            f"{path} is a NIfTI file, which needs nibabel. Install it: pip install nibabel."
        ) from error
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        # nibabel reads as much of the notes between header and values as the file says.
        with opened(path, "rb") as file:
            start = io.BytesIO(file.read(_MOST_NOTES))
        second = int.from_bytes(start.getvalue()[:4], sys.byteorder) in _SECOND
        kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
        header = kind.header_class.from_fileobj(start)
        values = nibabel.arrayproxy.ArrayProxy(str(path), header)
        return kind(values, header.get_best_affine(), header)
    except Exception as error:  # torn files raise what they like
        raise DataError(
            f"{path}: expected a NIfTI volume, found none that can be read ({error}). Export it "
            "again."
        ) from error


def _orientation(path: Path, image: Any) -> tuple[list[int], list[bool]]:
    """Which stored axis runs along right, anterior and superior, and whether it runs backwards."""
    from nibabel.orientations import io_orientation

    try:
        table = io_orientation(image.affine)
    except np.linalg.LinAlgError:  # numbers that are not finite
        table = np.full((3, 2), np.nan)
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
    try:
        plane = _plane(image.dataobj, stored[across], place)
    except Exception as error:  # as above
        raise DataError(
            f"{path}: its slice cannot be read ({error}). Download or export it again."
        ) from error
    horizontal, vertical = (direction for direction in range(3) if direction != across)
    if stored[horizontal] > stored[vertical]:
        plane = plane.T
    if flipped[horizontal]:
        plane = plane[::-1]
    if flipped[vertical]:
        plane = plane[:, ::-1]
    return to_rgb(plane[::-1, ::-1].T, limits)


def _plane(values: Any, axis: int, place: int) -> NDArray[Any]:
    """The plane [A, B] of a volume at a place along one of its stored axes.

    nibabel may read all that lies between its rows, therefore not in one step unless the plane is
    one slice as it is stored.
    """
    depth = values.shape[2] if len(values.shape) > 2 else 1
    step = 1 if axis == 2 else max(1, _AT_ONCE // (values.shape[0] * values.shape[1]))
    first, end = (place, place + 1) if axis == 2 else (0, depth)
    parts = []
    for start in range(first, end, step):
        where: list[Any] = [slice(None)] * len(values.shape)
        if len(values.shape) > 2:
            where[2] = slice(start, min(start + step, end))
        if axis < 2:
            where[axis] = slice(place, place + 1)
        part = np.array(values[tuple(where)])  # a copy, which does not keep what was read beside it
        parts.append(part.reshape(*(*part.shape, 1)[:3]))  # a fourth axis has one entry
    return np.concatenate(parts, axis=2).squeeze(axis)
