"""Batch norm that keeps up with the weights in a run of few steps."""

from itertools import islice
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from lcpdn_pl.backbones.base import frozen_backbones
from lcpdn_pl.tasks.segmentation import SegmentationTask


class PreciseBatchNorm(Callback):
    """Takes the statistics of batch norm anew from training images before each validation.

    Those that a training step leaves behind are running means over the weights of many steps, and
    lag behind weights that still change fast. Here they are means over ``batches`` batches under
    the weights that are validated (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section
    3.1), averaged ones included, and checkpoints hold them. Dropout stays off, as it is in the
    validation, and the batches are the first ones of the run each time. Frozen backbones keep the
    statistics that they came with.

    Args:
        batches: How many training batches; at most one epoch of them is used.
    """

    def __init__(self, batches: int = 20) -> None:
        self.batches = batches

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,  # noqa: ARG002 - Lightning's signature
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Works before the first batch: averaged weights are put in at the start of the epoch."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or batch_idx or dataloader_idx:
            return
        assert isinstance(pl_module, SegmentationTask)  # noqa: S101 - what batches are made for
        layers = _trained_batch_norms(pl_module)
        if not layers:
            return
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean of all batches
            layer.train()
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        for images in islice(loader, self.batches):
            moved = trainer.strategy.batch_to_device(images)
            # The way of a training step: to segment may take many passes, as of MedSegDiff.
            with trainer.precision_plugin.forward_context():
                pl_module.training_terms(moved)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


def _trained_batch_norms(task: SegmentationTask) -> list[_BatchNorm]:
    backbones = frozen_backbones(task.network).values()
    frozen = {module for backbone in backbones for module in backbone.modules()}
    return [
        module
        for module in task.network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module not in frozen
    ]
