"""Dice and time of a trained MedSegDiff against the number of sampling steps.

Loads a checkpoint, draws the masks of a split with each number of steps, and prints a Markdown
table: mean Dice and IoU over images by the ``compat`` mask rule at the network's size and the
checkpoint's threshold, and seconds an image, ensemble included.

    python benchmarks/sampling_steps.py runs/monuseg/medsegdiff/STAMP/best.ckpt
    python benchmarks/sampling_steps.py CKPT --split test --samplers ancestral dpm-solver++
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from lcpdn_pl.data import SegmentationDataModule
from lcpdn_pl.errors import CheckpointError
from lcpdn_pl.metrics import SegmentationScore, shift
from lcpdn_pl.models.medsegdiff.diffusion import Sampler
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import DiffusionSegmentationTask
from lcpdn_pl.tasks.segmentation import by_rule

STEPS = (4, 10, 25, 50)


def load(checkpoint: Path, split: str) -> tuple[DiffusionSegmentationTask, list[dict[str, Any]]]:
    """The task in eval mode, and the images of a split one by one with their own masks.

    Raises:
        CheckpointError: If the checkpoint is of another method.
    """
    task, data = restore(checkpoint)
    if not isinstance(task, DiffusionSegmentationTask) or not isinstance(
        data, SegmentationDataModule
    ):
        raise CheckpointError(
            f"{checkpoint} is of {type(task).__name__}; expected that of a MedSegDiff. Train one "
            "with configs/methods/medsegdiff_small.yaml."
        )
    data.setup("test")
    # The test's loader, whose masks have their own size, over the split that is asked for.
    data.samples = data.samples[data.samples["split"] == split].assign(split="test")
    return task, list(data.test_dataloader())


@torch.inference_mode()
def measure(
    task: DiffusionSegmentationTask, images: Sequence[dict[str, Any]], sampler: Sampler, steps: int
) -> tuple[float, float, float]:
    """Dice and IoU in percent by the task's threshold, and seconds an image."""
    task.network.sampler, task.network.steps = sampler, steps
    score = SegmentationScore(task.empty_score)
    start = time.perf_counter()
    for sample in images:
        logits = task(sample["image"].to(task.device), sample["text"]).cpu()
        score.update(*by_rule("compat", shift(logits, task.threshold), sample["mask"]))
    seconds = (time.perf_counter() - start) / len(images)
    found = score.compute()
    return 100 * float(found["dice"]), 100 * float(found["iou"]), seconds


def main(args: Sequence[str] | None = None) -> None:
    """Measures each number of steps and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument(
        "--samplers", nargs="+", default=["dpm-solver++"], choices=get_args(Sampler)
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)
    task, images = load(options.checkpoint, options.split)
    task.to(options.device)
    print(
        f"{len(images)} images of {options.split}, ensemble of {task.network.ensemble}, "
        f"threshold {task.threshold:.2f}, {options.device}, {torch.get_num_threads()} threads\n"
    )
    print("| sampler | steps | Dice % | IoU % | s/image |\n|---|---|---|---|---|")
    for sampler in options.samplers:
        for steps in options.steps:
            dice, iou, seconds = measure(task, images, sampler, steps)
            print(f"| {sampler} | {steps} | {dice:.2f} | {iou:.2f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
