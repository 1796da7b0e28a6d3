"""What the command line needs of whatever it trains."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from lightning import LightningModule

from lcpdn_pl.tasks.notices import warn_of_dead_parameters


class Task(LightningModule):
    """A LightningModule that names its runs and says which of its weights are best.

    Attributes:
        monitor: Logged validation figure that chooses the best checkpoint.
        monitor_mode: Whether the best one is the ``max`` or the ``min``.
    """

    monitor: ClassVar[str]
    monitor_mode: ClassVar[str]
    _looked_at_gradients = False

    @property
    @abstractmethod
    def method(self) -> str:
        """Name of the method in run folders, ``runs/<dataset>/<method>/<stamp>``."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Rows of the summary that is printed before a run: what is trained, and what is not."""

    def on_after_backward(self) -> None:
        """Looks, after the first step, for parameters that were left out."""
        if not self._looked_at_gradients:
            self._looked_at_gradients = True
            warn_of_dead_parameters(self)


def step_seed(seed: int, rank: int, epoch: int, batch_index: int) -> int:
    """Seed of what a training step draws at random.

    It depends on nothing that was drawn before, so that a run which was killed draws the same when
    it goes on.

    Args:
        seed: Of the run.
        rank: Number of the process.
        epoch: Number of the epoch.
        batch_index: Number of the batch in it.
    """
    return int(np.random.default_rng((seed, rank, epoch, batch_index)).integers(2**63))
