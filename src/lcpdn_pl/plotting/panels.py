"""Panels: samples with their predictions, kept in a file for pictures of several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcpdn_pl.errors import RunError
from lcpdn_pl.files import write_whole
from lcpdn_pl.metrics import IGNORE

MOST_BYTES = 2**28
"""What the panels of a run may take; eight of 1024 x 1024 take 40 MB."""

_COLUMNS = ("image", "mask", "prediction", "text", "name")


@dataclass(frozen=True)
class Panel:
    """One row of an overlay sheet; the masks have the image's size.

    Attributes:
        image: float [3, H, W] in [-1, 1].
        text: The report.
        name: The sample's name.
        prediction: [H, W] in {0, 1}.
        mask: Truth [H, W] in {0, 1, 255}; ``None`` where there is none.
    """

    image: Tensor
    text: str
    name: str
    prediction: Tensor
    mask: Tensor | None = None


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Writes panels to a .npz file, images as 8 bits, for pictures of several runs."""
    content = BytesIO()
    np.savez_compressed(
        content,
        image=np.stack([((p.image.float().cpu() + 1) * 127.5).round().byte() for p in panels]),
        mask=np.stack([_or_ignored(p).byte().cpu() for p in panels]),
        prediction=np.stack([p.prediction.byte().cpu() for p in panels]),
        text=np.array([p.text for p in panels]),
        name=np.array([p.name for p in panels]),
    )
    write_whole(path, content.getvalue())


def load_panels(path: Path) -> list[Panel]:
    """Reads what :func:`save_panels` wrote.

    Raises:
        RunError: If it is no such file, or says to unpack to far more.
    """
    try:
        columns = _columns(path)
    except Exception as error:  # readers raise what a broken file leads them to
        raise RunError(
            f"{path}: expected the pictures that lcpdn test writes, found another file ({error}). "
            "Remove it, or run lcpdn test again."
        ) from error
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    return [
        Panel(
            torch.from_numpy(row["image"]) / 127.5 - 1,
            str(row["text"]),
            str(row["name"]),
            torch.from_numpy(row["prediction"]).long(),
            None if (row["mask"] == IGNORE).all() else torch.from_numpy(row["mask"]).long(),
        )
        for row in rows
    ]


def _columns(path: Path) -> list[NDArray[Any]]:
    with ZipFile(path) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"{size >> 20} MiB, of at most {MOST_BYTES >> 20}")
    with np.load(path, allow_pickle=False) as content:
        columns = [np.asarray(content[name]) for name in _COLUMNS]
    if columns[0].ndim != 4 or {len(column) for column in columns} != {len(columns[0])}:
        raise ValueError(f"arrays of shapes {[column.shape for column in columns]}")
    return columns


def _or_ignored(panel: Panel) -> Tensor:
    ignored = torch.full_like(panel.prediction, IGNORE)
    return ignored if panel.mask is None else panel.mask
