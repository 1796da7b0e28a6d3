"""What a check of a data set found: lines with a level, and what to do about them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")
LEARNING_SPLITS = ("train", "val", "test")
"""The splits that must share nothing; `predict` takes no part in learning or scoring."""


@dataclass(frozen=True)
class Finding:
    """One line of a report on a data set.

    Attributes:
        level: ``ok``; ``note``, worth knowing; ``warning``, may spoil figures; ``error``, training
            or testing would refuse, or would be worth nothing.
        key: Stable name ``topic.what``, for machines.
        message: What was found.
        remedy: What the user can do about it, a sentence; empty where nothing is to be done.
        items: All files, names or pairs that are concerned.
        figures: The figures of the message, for machines; keys are splits, values, sizes...
    """

    level: Level
    key: str
    message: str
    remedy: str = ""
    items: tuple[str, ...] = ()
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """The section that the line belongs to."""
        return self.key.partition(".")[0]


def worst(findings: Iterable[Finding]) -> Level:
    """The highest level among findings; ``ok`` where there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def listed(
    level: Level, key: str, items: Sequence[str], noun: str, message: str, remedy: str = ""
) -> list[Finding]:
    """One finding about some items, which says how many there are; none if there are none."""
    if not items:
        return []
    text = f"{some(len(items), noun)} {message}"
    return [Finding(level, key, text, remedy, tuple(items), {"count": len(items)})]


def some(count: int, noun: str) -> str:
    """A count with its noun, such as ``1 image`` or ``3 images``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def counts(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, in order of appearance."""
    return dict(Counter(values))


def counted(numbers: Mapping[str, int]) -> str:
    """Counts as text, such as ``train 24, val 6``."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
