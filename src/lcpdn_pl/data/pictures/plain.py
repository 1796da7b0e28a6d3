"""PNG, JPEG, BMP and small TIFF files, read as in training."""

import warnings
from functools import partial
from pathlib import Path

from PIL import Image

from lcpdn_pl.data.images import read_image, read_size
from lcpdn_pl.data.pictures.base import DecodedPicture, Picture, Pixels


def open_plain(path: Path) -> Picture:
    """Opens a picture that :func:`lcpdn_pl.data.images.read_image` reads.

    Raises:
        DataError: As in ``read_size``, or it is too large.
    """
    with warnings.catch_warnings():
        # MAX_PIXELS is this package's own limit.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        height, width = read_size(path)
    return DecodedPicture(str(path), height, width, partial(_decode, path))


def _decode(path: Path) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return read_image(path)
