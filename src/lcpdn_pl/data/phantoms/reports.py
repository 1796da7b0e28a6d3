"""Sentences about a mask, worded like the public reports.

Every word about place and number is read off the mask. As in the public report lines, `upper`,
`middle` and `lower` are image rows (thirds of the rows that the lungs span, halves of a tissue
image) and `left` is the left of the image, whatever the anatomy.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from lcpdn_pl.data.phantoms.drawing import Bools, Rng
from lcpdn_pl.data.phantoms.scene import Look

_LESIONS = (
    ("dense consolidation", "solid opacity", "solid consolidation"),
    ("ground-glass haze", "hazy opacity", "faint ground-glass opacity"),
)
KINDS: dict[Look, tuple[tuple[str, ...], tuple[str, ...]]] = {  # synonyms of either kind
    "nuclei": (("round", "circular", "rounded"), ("elongated", "spindle-shaped", "spindle-like")),
    "xray": _LESIONS,
    "ct": _LESIONS,
}
_NUCLEI_TEMPLATES = (
    "the density of {kind} nuclei in the {where} is high.",
    "the {kind} nuclei density in the {where} is high.",
    "{count} {kind} nuclei, densest in the {where}.",
    "{count} {kind} nuclei are seen, with the highest density in the {where}.",
)
_LUNG_TEMPLATES = (
    "{sides} pulmonary infection, {count} infected {areas} of {kind}, {where}.",
    "{sides} pulmonary infection with {kind}, {count} infected {areas}, {where}.",
    "{count} {areas} of {kind}, {where}.",
    "there is {kind} in {count} {areas}, {where}.",
)
_NUMBERS = ("one", "two", "three", "four", "five", "six")


def describe(look: Look, mask: Bools, rows: tuple[int, int], named: Sequence[int], rng: Rng) -> str:
    """Writes the report of a mask.

    Args:
        look: What the image shows.
        mask: The foreground, not empty.
        rows: First image row and last row + 1 of the lungs.
        named: The kinds that the foreground consists of.
        rng: Source of the choice of words.

    Returns:
        One English sentence.
    """
    kind = " and ".join(str(rng.choice(KINDS[look][k])) for k in named)
    count = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    if look == "nuclei":
        template = rng.choice(_NUCLEI_TEMPLATES)
        amount = "a few" if count < 12 else "several" if count < 20 else "many"
        text = template.format(kind=kind, count=amount, where=_densest_quarter(mask))
    else:
        template = rng.choice(_LUNG_TEMPLATES)
        places = _places(mask, rows)
        text = template.format(
            kind=kind,
            count=_NUMBERS[count - 1] if count <= len(_NUMBERS) else "many",
            areas="area" if count == 1 else "areas",
            sides="unilateral" if len(places) == 1 else "bilateral",
            where=" and ".join(places),
        )
    return str(text[0].upper() + text[1:])


def _densest_quarter(mask: Bools) -> str:
    half = len(mask) // 2
    density = {
        f"{row} {column}": mask[ys, xs].mean()
        for row, ys in (("upper", slice(half)), ("lower", slice(half, None)))
        for column, xs in (("left", slice(half)), ("right", slice(half, None)))
    }
    return max(density, key=lambda quarter: density[quarter])


def _places(mask: Bools, rows: tuple[int, int]) -> list[str]:
    """Names, for each side with foreground, the thirds of the lung that hold a fair part of it."""
    half = len(mask) // 2
    places = []
    for side, part in (("left", mask[:, :half]), ("right", mask[:, half:])):
        if part.any():
            thirds = np.array_split(part[slice(*rows)], 3)
            shares = np.array([third.sum() for third in thirds]) / part.sum()
            levels = np.array(["upper", "middle", "lower"])[shares >= 0.2]
            places.append(f"{'all' if len(levels) == 3 else ' '.join(levels)} {side} lung")
    return places
