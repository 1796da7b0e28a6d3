"""The LightningModule that trains, tests and applies any segmentation network."""

import time
from typing import Any

import torch
from jsonargparse import lazy_instance  # type: ignore[attr-defined]
from jsonargparse.typing import ClosedUnitInterval
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.base import frozen_backbones
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.data.masks import resize_mask
from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.losses import DiceCELoss, SegmentationLoss
from lcpdn_pl.metrics import THRESHOLDS, SegmentationScore, dice_iou, image_counts, shift
from lcpdn_pl.models import NETWORKS, Network
from lcpdn_pl.tasks.base import Task, step_seed
from lcpdn_pl.tasks.notices import warn_of_background
from lcpdn_pl.tasks.turns import mean_over_turns

RULES = ("compat", "native")
"""Mask rules that a test scores by, see :func:`lcpdn_pl.data.masks.resize_mask`."""
STATES = {"state_dict", "current_model_state"}
"""Where a checkpoint holds weights; the latter beside averaged ones, see Lightning's
``EMAWeightAveraging``."""


class SegmentationTask(Task):
    """Trains a network on images, masks and reports.

    Validation scores masks at the training size by the data's own rule. A test scores every
    image by both mask rules: ``compat`` at the network's size, ``native`` with the probability
    brought back to the mask's own size.

    Args:
        network: The network to train.
        loss: Returns its terms by name, the total as ``loss``.
        optimizer: Gets the trainable parameters alone.
        lr_scheduler: Stepped once an epoch; null keeps the rate.
        empty_score: Dice and IoU of an image without foreground for which none is predicted.
        test_turns: Test and predict by the mean over the flips and quarter turns that a report can
            follow (:func:`lcpdn_pl.tasks.turns.mean_over_turns`). Up to eight times as slow; a
            figure that was made with it says so.
        calibrate: At each validation, choose the probability above which a pixel is foreground:
            that with the highest mean Dice of the validation images, which ``val/dice`` then is. A
            checkpoint keeps it, and tests and predictions go by it. A few training images with
            many nuclei, or few, bring a share of foreground that other images do not have; false
            takes 0.5.

    Attributes:
        threshold: The probability above which a pixel is foreground.
        trained_steps: Optimizer steps of the checkpoint that was loaded.
    """

    monitor = "val/dice"
    monitor_mode = "max"

    def __init__(
        self,
        network: Network,
        loss: SegmentationLoss = lazy_instance(DiceCELoss),  # noqa: B008 - shown by --help
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        empty_score: ClosedUnitInterval = 1.0,
        test_turns: bool = False,
        calibrate: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.empty_score = empty_score
        self.test_turns = test_turns
        self.calibrate = calibrate
        self.threshold = 0.5
        self.trained_steps = 0
        self._seed = 0
        self.scores = nn.ModuleDict(
            {f"{name}_score": SegmentationScore(empty_score) for name in ("train", *RULES)}
        )
        self.scores["val_score"] = SegmentationScore(
            empty_score, THRESHOLDS if calibrate else (0.5,)
        )

    @property
    def method(self) -> str:
        """The network's name in :data:`lcpdn_pl.models.NETWORKS`, or its class's."""
        names = {kind: name for name, kind in NETWORKS.items()}
        return names.get(type(self.network), type(self.network).__name__.lower())

    def describe(self) -> dict[str, str]:
        """See :meth:`Task.describe`."""
        trainable, frozen = self.network.count_parameters()
        backbones = self.network.describe_backbones().items()
        return {
            "network": type(self.network).__name__,
            **{f"  {name}": description for name, description in backbones},
            "parameters": f"{trainable:,} trainable, {frozen:,} frozen",
        }

    def forward(self, image: Tensor, text: list[str]) -> Tensor:
        """Logits [B, 2, H, W]; see :meth:`lcpdn_pl.models.base.Network.forward`."""
        logits: Tensor = self.network(image, text)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over what is trained, and its schedule."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.lr_scheduler(optimizer)}

    def on_fit_start(self) -> None:
        """Keeps the run's seed."""
        super().on_fit_start()
        self._seed = torch.initial_seed()

    def on_fit_end(self) -> None:
        """Gives the run's seed back, which a test's reports are shuffled by."""
        torch.manual_seed(self._seed)

    def on_train_batch_start(self, _batch: Batch, batch_index: int) -> None:
        """Seeds the step, so that dropout and the like are drawn alike when a run goes on."""
        epoch = self.current_epoch
        torch.manual_seed(step_seed(self._seed, self.global_rank, epoch, batch_index))

    def training_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """One step; logs its loss, each term's mean over the epoch and the learning rate.

        Raises:
            RunError: If the loss is not finite, see :meth:`Task.refuse_loss`.
        """
        optimizer = self.optimizers()
        self.log("lr", optimizer.param_groups[0]["lr"], batch_size=1)  # type: ignore[union-attr]
        _, loss = self._step("train", batch)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self.log("train/step_loss", loss.detach(), batch_size=1)
        return loss

    def validation_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """Scores a batch; returns its logits for the callbacks, by the last threshold.

        Raises:
            RunError: If the loss is not finite, see :meth:`Task.refuse_loss`.
        """
        logits, _ = self._step("val", batch)
        return shift(logits, self.threshold)

    def training_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a training batch, and the terms of its loss by name, the total as ``loss``.

        Raises:
            ConfigError: If the batch has images without masks, which only other tasks learn from.
        """
        if "unlabelled" in batch:
            raise ConfigError(
                f"data.unlabelled is set, but {type(self).__name__} learns from images with masks "
                "alone. Set it to null, or train MGCC: --config configs/methods/mgcc.yaml."
            )
        logits, own = self.network.training_forward(batch["image"], batch["text"])
        terms = self.loss(logits, batch["mask"]) | own
        terms["loss"] = torch.stack([terms["loss"], *own.values()]).sum()
        return logits, terms

    def _step(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        if stage == "train":
            logits, terms = self.training_terms(batch)
        else:
            logits = self(batch["image"], batch["text"])
            terms = self.loss(logits, batch["mask"])
        self.refuse_loss(terms["loss"], dict(batch), ", ".join(batch["name"]))
        self._score(stage).update(logits, batch["mask"])
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in terms.items()},
            on_step=False,
            on_epoch=True,
            # Not in training: the progress bar of the first process alone would wait for the others
            # for ever. Of several processes' training losses, logged are the first one's.
            sync_dist=stage == "val",
            batch_size=len(batch["name"]),
        )
        return logits, terms["loss"]

    def on_train_epoch_end(self) -> None:
        """Logs the training scores."""
        self._log_scores("train")

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores, of which ``val/dice`` chooses the checkpoint."""
        if self.calibrate and not self.trainer.sanity_checking:
            self.threshold = self._score("val").best_threshold()
            self.log("val/threshold", self.threshold)
        self._log_scores("val")

    def test_step(self, batch: Batch, _batch_index: int) -> dict[str, Any]:
        """Scores one image by both rules.

        Returns:
            ``logits`` at the network's size, the ``seconds`` that they took, and the image's
            ``row`` of the results: ``name`` and, for each rule, Dice and IoU.
        """
        start = self.clock()
        logits = self._tested(batch)
        return {"seconds": self.clock() - start, **self.score_test(batch, logits)}

    def clock(self) -> float:
        """Seconds on a clock, once a GPU has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _tested(self, batch: Batch) -> Tensor:
        """Logits of a batch of one image, at the network's size, by the threshold."""
        if self.test_turns:
            turns = self.trainer.datamodule.turns  # type: ignore[attr-defined]
            logits = mean_over_turns(self, batch["image"], batch["text"][0], turns)
        else:
            logits = self(batch["image"], batch["text"])
        return shift(logits, self.threshold)

    def score_test(self, batch: Batch, logits: Tensor) -> dict[str, Any]:
        """Logits and row of :meth:`test_step`, for these logits of a batch of one image.

        They are by the threshold already: foreground is what is above one half.
        """
        row: dict[str, Any] = {"name": batch["name"][0]}
        for rule in RULES:
            prediction, target = by_rule(rule, logits, batch["mask"])
            self._score(rule).update(prediction, target)
            dice, iou = dice_iou(*image_counts(prediction, target), self.empty_score)
            row |= {f"{rule}/dice": dice.item(), f"{rule}/iou": iou.item()}
        return {"logits": logits, "row": row}

    def on_test_epoch_end(self) -> None:
        """Logs the test scores by both rules."""
        for rule in RULES:
            self._log_scores(f"test/{rule}")

    def predict_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """Foreground probability [1, H, W] at the image's own size; 0.5 is the threshold."""
        return resize_logits(self._tested(batch), batch["mask"]).softmax(dim=1)[:, 1]

    def _score(self, name: str) -> SegmentationScore:
        score = self.scores[f"{name}_score"]
        assert isinstance(score, SegmentationScore)  # noqa: S101 - what the ModuleDict holds
        return score

    def _log_scores(self, stage: str) -> None:
        score = self._score(stage.removeprefix("test/"))
        # The two rules of a test look at the same predictions.
        judged = stage in ("val", "test/native") and not self.trainer.sanity_checking
        if judged and score.all_background():
            warn_of_background(stage.removesuffix("/native"))
        for name, value in score.compute().items():
            shown = stage == "val" and name == "dice"
            self.log(f"{stage}/{name}", value, prog_bar=shown)  # type: ignore[arg-type]
        score.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the frozen weights out, and notes whose they were."""
        frozen = self._frozen_keys()
        for part in STATES & checkpoint.keys():
            state = checkpoint[part]
            checkpoint[part] = {k: v for k, v in state.items() if k not in frozen}
        checkpoint["backbones"] = self._fingerprints()
        checkpoint["threshold"] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the frozen weights back in, once it is sure that they are the same.

        Raises:
            CheckpointError: If a backbone differs, or weights are missing or surplus.
        """
        found, expected = checkpoint.get("backbones", {}), self._fingerprints()
        if found != expected:
            raise CheckpointError(
                "The checkpoint was trained on other backbones than the configuration builds: "
                f"expected {expected}, found {found}. Use the configuration of the run."
            )
        frozen = self._frozen_keys()
        state = self.state_dict()
        trained = state.keys() - frozen
        stored = checkpoint["state_dict"].keys()
        if stored != trained:
            raise CheckpointError(
                "The checkpoint does not fit the network: missing "
                f"{sorted(trained - stored) or 'nothing'}, surplus "
                f"{sorted(stored - trained) or 'nothing'}. Use the configuration of the run."
            )
        shapes = {key: tuple(state[key].shape) for key in sorted(trained)}
        found_shapes = {key: tuple(checkpoint["state_dict"][key].shape) for key in shapes}
        if other := [key for key, shape in shapes.items() if found_shapes[key] != shape]:
            raise CheckpointError(
                f"The checkpoint does not fit the network: expected {other[0]} of shape "
                f"{shapes[other[0]]}, found {found_shapes[other[0]]}; so it is with {len(other)} "
                "weights. Use the configuration of the run."
            )
        for part in STATES & checkpoint.keys():
            checkpoint[part] |= {key: state[key] for key in frozen}
        self.threshold = checkpoint.get("threshold", 0.5)
        if not (isinstance(self.threshold, float) and 0 < self.threshold < 1):
            raise CheckpointError(
                f"The checkpoint's threshold is {self.threshold!r}: expected a probability between "
                "0 and 1. Take another checkpoint of the run, or train it anew."
            )
        self.trained_steps = checkpoint.get("global_step", 0)

    def _frozen_keys(self) -> set[str]:
        prefixes = tuple(f"network.{name}." for name in frozen_backbones(self.network))
        return {key for key in self.state_dict() if key.startswith(prefixes)}

    def _fingerprints(self) -> dict[str, str]:
        return {
            name: f"{backbone.describe()} ({backbone.fingerprint()})"
            for name, backbone in frozen_backbones(self.network).items()
        }


def resize_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [B, 2, H, W] at the size of a mask [B, H', W'], bilinear and in full precision."""
    return F.interpolate(logits.float(), mask.shape[-2:], mode="bilinear")


def by_rule(rule: str, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and target of one image [1, ...] at the size that a mask rule scores at.

    Args:
        rule: One of ``RULES``.
        logits: [1, 2, H, W] at the network's size.
        mask: [1, H', W'] at its own.
    """
    if rule == "native":
        return resize_logits(logits, mask), mask
    height, width = logits.shape[-2:]
    resized = resize_mask(mask[0].byte().cpu().numpy(), (height, width), "compat")
    return logits, torch.from_numpy(resized).long().unsqueeze(0).to(mask.device)
