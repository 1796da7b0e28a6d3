"""One pass over the files of a samples table, which keeps figures and thumbnails but no picture."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcpdn_pl.data.checks.outlines import fit
from lcpdn_pl.data.images import read_image, read_kind, read_values
from lcpdn_pl.data.progress import Track, untracked
from lcpdn_pl.data.reports import agrees
from lcpdn_pl.errors import DataError
from lcpdn_pl.metrics import IGNORE

THREADS = 8  # reading waits for the disk, and decoding lets other threads run
THUMBNAIL = 96


@dataclass(frozen=True)
class Measures:
    """What is known of a sample's files; what could not be read stays at its default."""

    size: tuple[int, int] | None = None
    """Height and width of the image."""
    kind: str = ""
    """Format and mode of the image, such as `PNG RGB`."""
    digest: bytes = b""
    """Of the decoded pixels, so that it does not depend on the file's format."""
    thumbnail: NDArray[np.uint8] | None = None
    """The image in grey, square, `THUMBNAIL` wide."""
    mask_size: tuple[int, int] | None = None
    mask_kind: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    """Pixels by their value in the mask's file."""
    foreground: float = np.nan
    """Share of the mask that is foreground, of what is not ignored."""
    agrees: bool | None = None
    """Whether the foreground lies where the report says; None where no side is named."""
    agrees_mirrored: bool | None = None
    """The same, were left the right half of the picture."""
    fit: NDArray[np.float16] | None = None
    """How well the mask would fit the image elsewhere, see `checks.outlines`; None where they do
    not belong together by size, or the mask has no outline."""
    troubles: tuple[str, ...] = ()
    """Why a file cannot be read."""


def survey(
    samples: pd.DataFrame,
    foreground: Collection[int] | None = None,
    ignore: int | None = None,
    track: Track = untracked,
) -> pd.DataFrame:
    """Reads every image and mask once, several at a time.

    Args:
        samples: Samples table.
        foreground: Values of a mask file that are foreground; None takes all but 0 and `ignore`.
        ignore: Value of a mask file that marks pixels to ignore.
        track: Shows the progress.

    Returns:
        The samples table with a column for each of the `Measures`.
    """
    measure = partial(_measure, foreground=foreground, ignore=ignore)
    columns = (samples[column] for column in ("image", "mask", "text"))
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(track(pool.map(measure, *columns), len(samples), "Reading images and masks"))
    measured = pd.DataFrame(
        {name: pd.Series([getattr(row, name) for row in rows], dtype=object) for name in _COLUMNS}
    )
    return pd.concat([samples.reset_index(drop=True), measured], axis=1)


_COLUMNS = tuple(one.name for one in fields(Measures))


def _measure(
    image: str, mask: str, text: str, foreground: Collection[int] | None, ignore: int | None
) -> Measures:
    looks = [partial(_look_at_image, Path(image))]
    if mask:
        looks.append(partial(_look_at_mask, Path(mask), text, foreground, ignore))
    known: dict[str, Any] = {}
    troubles = []
    for look in looks:
        try:
            known |= look()
        except DataError as error:
            troubles.append(str(error))
    grey, inside = known.pop("grey", None), known.pop("inside", None)
    if grey is not None and inside is not None and grey.shape == inside.shape and inside.any():
        known["fit"] = fit(grey, inside)
    return Measures(**known, troubles=tuple(troubles))


def _look_at_image(path: Path) -> dict[str, Any]:
    pixels = read_image(path)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return {
        "size": pixels.shape[:2],
        "kind": read_kind(path),
        "digest": blake2b(repr(pixels.shape).encode() + pixels.tobytes()).digest(),
        "grey": grey,
        "thumbnail": cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
    }


def _look_at_mask(
    path: Path, text: str, foreground: Collection[int] | None, ignore: int | None
) -> dict[str, Any]:
    pixels = read_values(path)
    mask = (pixels != 0 if foreground is None else np.isin(pixels, list(foreground))).astype("u1")
    if ignore is not None:
        mask[pixels == ignore] = IGNORE
    counted = int((mask != IGNORE).sum())
    return {
        "inside": mask == 1,
        "mask_size": pixels.shape,
        "mask_kind": read_kind(path),
        "values": _count(pixels),
        "foreground": int((mask == 1).sum()) / counted if counted else 0.0,
        "agrees": agrees(text, mask),
        "agrees_mirrored": agrees(text, mask[:, ::-1]),
    }


def _count(pixels: NDArray[np.integer]) -> dict[int, int]:
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:  # many times faster than sorting
        counts = np.bincount(pixels.ravel())
        values = counts.nonzero()[0]
        counts = counts[values]
    else:
        values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
