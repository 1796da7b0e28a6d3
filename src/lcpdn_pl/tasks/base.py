"""What the command line needs of whatever it trains."""

from abc import abstractmethod
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from lcpdn_pl.errors import RunError
from lcpdn_pl.files import write_whole
from lcpdn_pl.tasks.notices import warn_of_dead_parameters

BAD_BATCH = "bad_batch.pt"
"""File in the run folder with the batch whose loss was not finite."""


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

    def refuse_loss(self, loss: Tensor, batch: Any, images: str) -> None:
        """Ends a run whose loss is not finite, before it is learnt from or a checkpoint written.

        Args:
            loss: Of a training or validation step.
            batch: Kept in the run folder as :data:`BAD_BATCH`.
            images: Which images they were, for the message.

        Raises:
            RunError: If the loss is not finite.
        """
        if loss.isfinite():
            return
        folder = Path(self.trainer.default_root_dir)
        content = BytesIO()
        torch.save(batch, content)
        write_whole(folder / BAD_BATCH, content.getvalue())
        raise RunError(
            f"The loss of step {self.global_step} is {loss.item()}: expected a finite number. The "
            f"images were {images}; their batch is in {folder / BAD_BATCH}. Look at it, or lower "
            "the learning rate. The run's checkpoints are from before; "
            f"lcpdn fit --ckpt_path {folder} goes on from the last one."
        )

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
