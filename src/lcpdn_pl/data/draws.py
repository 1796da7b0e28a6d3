"""The order in which an epoch draws, and a loader that goes on within an epoch."""

import math
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Sampler

Draw = TypeVar("Draw")


class Draws(Sampler[Draw]):
    """Draws that epoch and seed decide, and nothing that was drawn before.

    A resumed run draws what an uninterrupted one would have drawn, with any number of workers.

    Args:
        seed: Seed of the run.

    Attributes:
        first: Draws of the epoch that are left out.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def random(self) -> np.random.Generator:
        """The generator of an epoch's draws, as it begins."""
        return np.random.default_rng((self.seed, self.epoch))


class EpochSampler(Draws[tuple[int, int]]):
    """Shuffled rows with an augmentation seed each.

    Processes that train together take the draws in turn, so that their batches together are those
    of one process; where the rows cannot be shared out evenly, the epoch's first draws come once
    more.

    Args:
        length: Number of rows.
        seed: Seed of the run.
        rank: Number of this process.
        ranks: How many processes train together.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(seed)
        self.length = length
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return math.ceil(self.length / self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = self.random()
        order = rng.permutation(self.length).tolist()
        seeds = rng.integers(2**31, size=self.length).tolist()
        draws = cycle(zip(order, seeds, strict=True))
        start = self.rank + self.first * self.ranks
        return islice(draws, start, len(self) * self.ranks, self.ranks)


class TrainingLoader(DataLoader[Any]):
    """Batches of :class:`Draws`; a checkpoint knows how many of its epoch were given.

    Lightning stores and restores the state, so that a run which ended between two batches goes on
    with the second one. A draw is of one sample, or of a batch where ``batch_size`` is ``None``.
    """

    sampler: Draws[Any]
    _given = 0
    _restored: tuple[int, int] = (-1, 0)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Not before the first batch is asked for, when Lightning has set the epoch.
        epoch, given = self._restored
        self._given = given if epoch == self.sampler.epoch else 0
        self.sampler.first = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were given."""
        return {"epoch": self.sampler.epoch, "given": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Lets that epoch begin with the batches which were not given."""
        self._restored = state["epoch"], state["given"]
