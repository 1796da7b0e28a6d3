"""Images to segment, of many formats and any size, read by rows."""

from math import isfinite
from pathlib import Path

from lcpdn_pl.data.pictures.base import DecodedPicture, Picture, Range
from lcpdn_pl.data.pictures.dicom import is_dicom, open_dicom
from lcpdn_pl.data.pictures.nifti import is_nifti, open_nifti
from lcpdn_pl.data.pictures.plain import open_plain
from lcpdn_pl.data.pictures.tiff import is_tiff, open_tiff
from lcpdn_pl.errors import ConfigError, DataError

__all__ = ["DecodedPicture", "Picture", "Range", "open_picture"]


def open_picture(
    path: Path, slice: int | None = None, window: tuple[float, float] | None = None
) -> Picture:
    """Opens a picture; reads its header and no pixel.

    Files that training reads come out as in training, see
    :func:`lcpdn_pl.data.images.read_image`. TIFF files that are too large for that are read by
    parts; DICOM and NIfTI hold measured values, of which a range becomes 0 to 255.

    Args:
        path: A PNG, JPEG, BMP, TIFF, DICOM or NIfTI file; told apart by content, NIfTI by its name.
        slice: Which slice of a DICOM or NIfTI volume, from 0; ``None`` where there is one alone.
        window: Center and width of the range of a DICOM or NIfTI slice. ``None`` takes the range
            that the file names; where it names none, from the smallest to the largest value.

    Raises:
        DataError: The file is missing or unreadable, holds several pictures, or declares more
            pixels than are decoded at once.
        ConfigError: ``slice`` or ``window`` do not apply, or are out of range.
    """
    if window is not None and not (isfinite(sum(window)) and window[1] > 0):
        raise ConfigError(f"window={list(window)}: expected a center and a width above 0.")
    if path.is_dir():
        raise DataError(f"{path}: expected an image, found a folder. Give its images: {path / '*'}")
    if not path.is_file():
        raise DataError(
            f"{path}: expected an image, found no such file. Put it there or correct the path."
        )
    if is_nifti(path):
        return open_nifti(path, slice, window)
    if is_dicom(path):
        return open_dicom(path, slice, window)
    for name, value in (("slice", slice), ("window", window)):
        if value is not None:
            raise ConfigError(
                f"{name} is for DICOM and NIfTI, but {path} is neither. Leave {name} out."
            )
    return open_tiff(path) if is_tiff(path) else open_plain(path)
