"""Training on images with and without masks, by decoders that are to agree."""

import math

import torch
from jsonargparse import lazy_instance  # type: ignore[attr-defined]
from jsonargparse.typing import ClosedUnitInterval
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.losses import DiceBCELoss, SegmentationLoss
from lcpdn_pl.models import MGCC
from lcpdn_pl.tasks.segmentation import SegmentationTask


class ConsistencyTask(SegmentationTask):
    """Trains a main decoder and perturbed auxiliary ones, on images with and without masks.

    With L the loss, p_0 the main decoder's probabilities and p_1 to p_K the auxiliary ones':
    mean over all decoders of L on the images with masks + w mean over k > 0 of mean (p_0 - p_k)^2
    on those without. w is ``consistency`` times :func:`ramp`. Validation, test and prediction are
    those of :class:`SegmentationTask`, by the main decoder.

    Args:
        network: The network to train.
        loss: Returns its terms by name, the total as ``loss``.
        optimizer: Gets the trainable parameters alone.
        lr_scheduler: Stepped once an epoch; null keeps the rate.
        empty_score: Dice and IoU of an image without foreground for which none is predicted.
        consistency: Weight of the decoders' agreement; 0 trains on images with masks alone.
        ramp_share: Steps in which the weight rises, as a share of the run's; above 1 the run ends
            before it is whole.
        calibrate: See :class:`SegmentationTask`.

    Raises:
        ConfigError: If the weight is negative, or the share not above 0; in training, if there is
            a weight but no image without mask.
    """

    network: MGCC

    def __init__(
        self,
        network: MGCC,
        loss: SegmentationLoss = lazy_instance(DiceBCELoss),  # noqa: B008 - shown by --help
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        empty_score: ClosedUnitInterval = 1.0,
        consistency: float = 7.0,
        ramp_share: float = 1.5,
        calibrate: bool = False,
    ) -> None:
        super().__init__(network, loss, optimizer, lr_scheduler, empty_score, calibrate=calibrate)
        if consistency < 0:
            raise ConfigError(f"consistency is {consistency}: expected a weight of 0 or more.")
        if ramp_share <= 0:
            raise ConfigError(
                f"ramp_share is {ramp_share}: expected a share of the run above 0, such as the "
                "published 1.5."
            )
        self.consistency = consistency
        self.ramp_share = ramp_share

    def training_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`SegmentationTask.training_terms`; adds ``consistency``, weight included."""
        labelled = batch["image"]
        if not self.consistency:
            branches = self.network.branches(labelled)
            return branches[0], self._mean_terms(branches, batch["mask"])
        if "unlabelled" not in batch:
            raise ConfigError(
                f"consistency is {self.consistency}, but no image comes without mask: expected a "
                "pool of them. Set data.unlabelled to rest (the training images that the protocol "
                "leaves out) or to a folder, or model.consistency to 0."
            )
        # In one batch, so that both are normalised alike.
        both = self.network.branches(torch.cat([labelled, batch["unlabelled"]]))
        branches = [logits[: len(labelled)] for logits in both]
        terms = self._mean_terms(branches, batch["mask"])
        main, *auxiliary = (logits[len(labelled) :].float().softmax(dim=1)[:, 1] for logits in both)
        differences = [(main - other).square().mean() for other in auxiliary]
        weight = self.consistency * ramp(self._progress())
        terms["consistency"] = weight * torch.stack(differences).mean()
        terms["loss"] = terms["loss"] + terms["consistency"]
        return branches[0], terms

    def _mean_terms(self, branches: list[Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Each term of the loss, mean over the decoders."""
        each = [self.loss(logits, mask) for logits in branches]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}

    def _progress(self) -> float:
        """How far the ramp is: 0 at the start of a run, 1 or more once it has ended."""
        return self.global_step / (self.ramp_share * self.trainer.estimated_stepping_batches)


def ramp(progress: float) -> float:
    """exp(-5 (1 - min(s, 1))^2), from 0.0067 to 1 (Laine and Aila, ICLR 2017).

    Args:
        progress: s, 0 or more.
    """
    return math.exp(-5 * (1 - min(progress, 1)) ** 2)
