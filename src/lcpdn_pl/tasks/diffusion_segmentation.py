"""Training of a network that draws masks by diffusion."""

from typing import Any

import torch
from jsonargparse import lazy_instance  # type: ignore[attr-defined]
from jsonargparse.typing import ClosedUnitInterval
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.backbones.diffusion import BETA
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.losses import BrierLoss, SegmentationLoss
from lcpdn_pl.metrics import IGNORE, shift
from lcpdn_pl.models import MedSegDiff
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.medsegdiff.diffusion import add_noise, variance_bound
from lcpdn_pl.tasks.segmentation import SegmentationTask, resize_logits


class DiffusionSegmentationTask(SegmentationTask):
    """Trains a denoiser of masks, and the condition network beside it.

    With x_0 the mask in {0, 1}, eps normal noise and t uniform in 0..999, the loss is
    mean (eps' - eps)^2 + mean of the variance's bound
    (:func:`lcpdn_pl.models.medsegdiff.diffusion.variance_bound`) + L(calibration mask); pixels to
    ignore count in none of them. ``train/dice`` is that of the calibration mask, since drawing
    masks takes too long. Validation, test and prediction are of drawn masks, by the mean of the
    ensemble; ``val/loss`` is L of that mean.

    A test's ``per_image.csv`` has a column more, ``agreement``: the share of the samples that have
    a pixel as the ensemble has it, mean over pixels.

    Args:
        network: The network to train.
        loss: L, of the calibration mask; 10 times its squared error in the paper.
        optimizer: Gets the trainable parameters alone.
        lr_scheduler: Stepped once an epoch; null keeps the rate.
        empty_score: Dice and IoU of an image without foreground for which none is predicted.
        calibrate: See :class:`SegmentationTask`.
    """

    network: MedSegDiff

    def __init__(
        self,
        network: MedSegDiff,
        loss: SegmentationLoss = lazy_instance(BrierLoss, weight=10.0),  # noqa: B008 - for --help
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(
            params, lr=1e-4, weight_decay=0.0
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        empty_score: ClosedUnitInterval = 1.0,
        calibrate: bool = False,
    ) -> None:
        super().__init__(network, loss, optimizer, lr_scheduler, empty_score, calibrate=calibrate)

    def training_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`SegmentationTask.training_terms`; adds ``noise`` and ``bound``."""
        image, target = batch["image"], batch["mask"].unsqueeze(1)
        mask = (target == 1).float()
        noise = torch.randn_like(mask)
        timestep = torch.randint(len(BETA), (len(mask),))
        noisy = add_noise(mask, noise, timestep)
        anchors, score = self.network.condition(image)
        output = self.network.denoise(image, anchors, noisy, timestep.to(mask.device))
        predicted, share = output.float().split(1, dim=1)
        error = (predicted - noise).square()
        bound = variance_bound(error.detach(), share, timestep)
        valid = target != IGNORE
        logits = foreground_logits(score)
        terms = self.loss(logits, batch["mask"])
        for name, values in (("noise", error), ("bound", bound)):
            # Clamped, so that a batch in which every pixel is ignored costs nothing.
            terms[name] = (values * valid).sum() / valid.sum().clamp(min=1)
            terms["loss"] = terms["loss"] + terms[name]
        return logits, terms

    def test_step(self, batch: Batch, _batch_index: int) -> dict[str, Any]:
        """See :meth:`SegmentationTask.test_step`; the row has the ``agreement`` too."""
        start = self.clock()
        ensemble = self.network.sample(batch["image"])
        seconds = self.clock() - start
        result = self.score_test(batch, shift(ensemble.logits, self.threshold))
        result["row"]["agreement"] = ensemble.agreement.mean().item()
        return {"seconds": seconds, **result}

    def predict_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """Foreground probability and its uncertainty [2, H, W] at the image's own size.

        The uncertainty is the standard deviation over the ensemble.
        """
        ensemble = self.network.sample(batch["image"])
        logits = shift(ensemble.logits, self.threshold)
        probability = resize_logits(logits, batch["mask"]).softmax(dim=1)[:, 1]
        size = batch["mask"].shape[-2:]
        deviation = F.interpolate(ensemble.deviation.unsqueeze(1), size, mode="bilinear")
        return torch.cat([probability, deviation[:, 0]])
