"""What the command line needs of whatever it trains."""

from abc import abstractmethod
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lcpdn_pl.backbones.base import frozen_backbones
from lcpdn_pl.errors import ConfigError, RunError
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

    def on_fit_start(self) -> None:
        """Looks whether the frozen backbones are still what was loaded.

        Raises:
            ConfigError: If ``trainer.sync_batchnorm`` has exchanged their batch norms, which in
                timm's networks are the activations too.
        """
        for name, backbone in frozen_backbones(self).items():
            if any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules()):
                raise ConfigError(
                    f"trainer.sync_batchnorm is true, which replaces the batch norms of the frozen "
                    f"{name}, and the activations that are part of them: expected false. Leave it "
                    "out; a frozen network's statistics do not depend on the batch."
                )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Looks whether half precision can hold the gradients.

        Raises:
            RunError: If the loss scale of ``16-mixed`` has fallen below 1: every step since was
                left out, for gradients that are not finite without any scaling either.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and (scale := scaler.get_scale()) < 1:
            raise RunError(
                f"The loss scale of precision 16-mixed is down to {scale:g} at step "
                f"{self.global_step}: expected at least 1, as gradients overflow half precision "
                "and the steps are left out. Set --trainer.precision to bf16-mixed or 32-true, or "
                "lower the learning rate."
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
