"""What the files of a download are: images, masks, annotations, report tables; and of which split.

Recognised by the names of folders, in any case and with any spaces and dashes between their words:
LViT's `img` and `labelcol`, MoNuSeg's `Tissue Images` and `Annotations`, QaTa-COV19's `Images` and
`Ground-truths`, `frames` and `masks`. A picture elsewhere is an image if there is an annotation of
its name. The split is named by the innermost folder or archive that has one of the words train, val
and test in its name.
"""

import filecmp
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from lcpdn_pl.data.images import PICTURES
from lcpdn_pl.data.lvit import owner
from lcpdn_pl.data.prepare.sources import File
from lcpdn_pl.data.problems import Problems

TABLES = (".xlsx", ".csv", ".json")

_IMAGE_FOLDERS = {"img", "imgs", "image", "images", "frame", "frames", "tissueimages"}
_MASK_FOLDERS = {"labelcol", "label", "labels", "mask", "masks", "groundtruth", "groundtruths"}
# At the start of a word, or with a capital inside of one: `MoNuSegTestData`.
_SPLIT_WORD = re.compile(r"(?i:(?<![a-z])(?:train|test|val(?!u)))|Train|Test|Val(?!u)")


@dataclass
class Found:
    """The files of a source by what they are; images, masks and annotations by name."""

    images: dict[str, File] = field(default_factory=dict)
    masks: dict[str, File] = field(default_factory=dict)
    """By the image's name; pictures or, where there is none, annotations (.xml)."""
    tables: list[File] = field(default_factory=list)
    others: list[File] = field(default_factory=list)
    """Neither."""
    twins: list[File] = field(default_factory=list)
    """There already under the same name with the same content."""


def split_of(inside: PurePath) -> str | None:
    """The split that the innermost telling name of a path tells: train, val, test or None."""
    for name in reversed(inside.parts):
        words = {found[0].lower() for found in _SPLIT_WORD.finditer(name)}
        if len(words) == 1:
            return words.pop()
    return None


def recognise(files: Iterable[File], problems: Problems) -> Found:
    """Sorts the files of a source by what they are.

    Args:
        files: Files as of `find_files`.
        problems: Where names that are ambiguous and masks without an image are noted.

    Returns:
        What was found.
    """
    found = Found()
    loose: list[File] = []
    masks: list[File] = []
    annotations: dict[str, File] = {}
    for file in files:
        suffix, kind = file.path.suffix.lower(), _folder_kind(file.inside)
        if suffix == ".xml":
            _enter(annotations, file.path.stem, file, "annotations", found, problems)
        elif suffix in TABLES:
            found.tables.append(file)
        elif suffix not in PICTURES:
            found.others.append(file)
        elif kind == "image":
            _enter(found.images, file.path.stem, file, "images", found, problems)
        else:
            (masks if kind == "mask" else loose).append(file)
    for file in loose:
        if file.path.stem in annotations and file.path.stem not in found.images:
            found.images[file.path.stem] = file
        else:
            found.others.append(file)
    for file in masks:
        name = owner(file.path.name, found.images)
        if name is None:
            problems.add("masks without an image", str(file.inside))
        else:
            _enter(found.masks, name, file, "masks", found, problems)
    for name, file in annotations.items():
        if name not in found.images:
            problems.add("annotations without an image", str(file.inside))
        elif name in found.masks:
            found.others.append(file)
        else:
            found.masks[name] = file
    for name, file in found.masks.items():
        if _other_split(file, found.images[name]):
            problems.add("masks in another split than their image", str(file.inside))
    missing = [str(file.inside) for name, file in found.images.items() if name not in found.masks]
    problems.add("images without a mask", *missing)
    return found


def _folder_kind(inside: PurePath) -> str | None:
    for name in reversed(inside.parent.parts):
        word = re.sub("[^a-z0-9]", "", name.lower())
        if word in _IMAGE_FOLDERS or word in _MASK_FOLDERS:
            return "image" if word in _IMAGE_FOLDERS else "mask"
    return None


def _other_split(one: File, other: File) -> bool:
    """Whether two files tell different splits; one may tell none."""
    return len({split_of(file.inside.parent) for file in (one, other)} - {None}) == 2


def _enter(
    known: dict[str, File], name: str, file: File, kind: str, found: Found, problems: Problems
) -> None:
    """Enters a file under its name; what is there already may only come again as it is."""
    first = known.setdefault(name, file)
    if first is file:
        return
    if not _other_split(first, file) and filecmp.cmp(first.path, file.path, shallow=False):
        found.twins.append(file)
    else:
        problems.add(f"{kind} that share a name", f"{file.inside} and {first.inside}")
