"""The samples table: one row for each image, built once from what is on disk, then checked.

Columns are `COLUMNS`: `image` and `mask` (paths as str, `mask` is "" where there is none), `text`
(the report), `split` (one of `SPLITS`), `name` (unique), `source` (where the report comes from;
`mask` if it was made from the mask, "" if nothing is said). Every data set is a way to fill it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from lcpdn_pl.data.images import read_size
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.manifest import SPLITS, read_manifest
from lcpdn_pl.data.problems import Problems, listing
from lcpdn_pl.errors import DataError

__all__ = [
    "COLUMNS",
    "SPLITS",
    "check_samples",
    "find_problems",
    "read_lvit",
    "read_manifest",
    "select",
]

COLUMNS = ("image", "mask", "text", "split", "name", "source")

_THREADS = 8  # header reads and hashes wait for the disk, and both let other threads run


def _examine(image: str, mask: str) -> tuple[bytes | None, Problems]:
    """The digest of a readable image's bytes, and what is wrong with the pair."""
    problems = Problems()
    sizes = {}
    for path in filter(None, (image, mask)):
        try:
            sizes[path] = read_size(Path(path))
        except DataError as error:
            problems.add("unreadable files", str(error))
    if len(set(sizes.values())) > 1:
        (rows, columns), (mask_rows, mask_columns) = sizes[image], sizes[mask]
        problems.add(
            "images and masks of different size (height x width)",
            f"{image} is {rows}x{columns} and {mask} is {mask_rows}x{mask_columns}",
        )
    if image not in sizes:
        return None, problems
    return hashlib.blake2b(Path(image).read_bytes()).digest(), problems


def _note_duplicates(samples: pd.DataFrame, problems: Problems) -> None:
    for name, rows in samples[samples["name"].duplicated(keep=False)].groupby("name", sort=False):
        problems.add("duplicate names", f"{name} ({listing(list(rows['image']))})")


def _note_leaks(
    samples: pd.DataFrame, digests: dict[str, bytes | None], problems: Problems
) -> None:
    """Notes images that are in two splits; predict takes no part in learning or scoring."""
    seen: dict[bytes, dict[str, str]] = defaultdict(dict)
    for image, split in zip(samples["image"], samples["split"], strict=True):
        digest = digests[image]
        if digest is not None and split != "predict":
            seen[digest].setdefault(split, image)
    for splits in seen.values():
        if len(splits) > 1:
            where = " and ".join(f"{image} ({split})" for split, image in splits.items())
            problems.add("images that are in two splits with the same content", where)


def find_problems(samples: pd.DataFrame, splits: Collection[str]) -> Problems:
    """Looks for what is wrong with a samples table; see `check_samples`."""
    problems = Problems()
    counts = samples["split"].value_counts().to_dict()
    found = listing([f"{split}: {count}" for split, count in counts.items()]) or "no sample"
    problems.add("empty splits", *(f"{s} (found {found})" for s in splits if s not in counts))
    _note_duplicates(samples, problems)
    pairs = samples[["image", "mask"]].drop_duplicates()
    digests: dict[str, bytes | None] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(_examine, pairs["image"], pairs["mask"])
        for image, (digest, trouble) in zip(pairs["image"], results, strict=True):
            digests[image] = digest
            problems.extend(trouble)
    _note_leaks(samples, digests, problems)
    return problems


def check_samples(samples: pd.DataFrame, splits: Collection[str]) -> None:
    """Checks a samples table and its files, reading headers and bytes but decoding no pixel.

    Damage inside a file with a good header is found when the file is read.

    Args:
        samples: Samples table.
        splits: The splits that must not be empty.

    Raises:
        DataError: Names occur twice, files are empty or unreadable, an image and its mask differ
            in size, an image is in two of the splits train, val and test (by content), or a split
            is empty. Everything is listed, by kind.
    """
    find_problems(samples, splits).raise_any(
        "The samples: expected unique names, readable images and masks of one size, no image in "
        f"two splits, and samples in {', '.join(splits)}",
        "Correct the files, or the table that lists them, and try again; data/README.md shows how "
        "both should look.",
    )


def select(samples: pd.DataFrame, protocol: pd.DataFrame, where: str) -> pd.DataFrame:
    """Takes the samples that a protocol names, in the protocol's order and splits.

    Args:
        samples: Samples table.
        protocol: Table with the columns name and split.
        where: The protocol's name, for the message.

    Returns:
        Samples table with the protocol's rows; the splits that `samples` has make no difference.

    Raises:
        DataError: The data has no image, or two, of a name in the protocol.
    """
    named = samples[samples["name"].isin(protocol["name"])]
    problems = Problems()
    _note_duplicates(named, problems)
    problems.raise_any(
        f"protocol {where}: expected each name once in the data", "Rename one image of each name."
    )
    missing = protocol.loc[~protocol["name"].isin(named["name"]), "name"].tolist()
    if missing:
        raise DataError(
            f"protocol {where} names {len(missing)} images that are not in the data: "
            f"{listing(missing)}; get the full data set, see data/README.md, or use protocol: full"
        )
    found = protocol[["name", "split"]].merge(named.drop(columns="split"), on="name", how="left")
    return found[list(COLUMNS)]
