"""Where a trained network loses its Dice: at borders, on small objects, or on some images.

Scores the validation images of a run (never the test split) at the network's size by the run's own
mask rule, and prints, in percent:

- Dice of each image, and by decision threshold (0.5 is what is reported, also where it stands for
  the threshold that the run has chosen);
- which share of the wrong pixels lies within some pixels of the truth's border, and the Dice of the
  pixels beyond them;
- recall of the truth's objects (8-connected) by their size, in four groups of equal number.

    python benchmarks/diagnosis.py runs/monuseg/lcpdn/STAMP/best.ckpt
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lcpdn_pl.data.datamodule import SegmentationDataModule
from lcpdn_pl.metrics import IGNORE, shift
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import SegmentationTask

Mask = NDArray[np.bool_]


def dice(prediction: Mask, truth: Mask) -> float:
    """Dice in percent; 100 for two empty masks."""
    total = prediction.sum() + truth.sum()
    return float(200 * (prediction & truth).sum() / total) if total else 100.0


def border_band(truth: Mask, width: int) -> Mask:
    """Pixels within ``width`` pixels of a border between truth and background."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    mask = truth.astype(np.uint8)
    return np.asarray(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))


def objects(prediction: Mask, truth: Mask) -> list[tuple[int, float]]:
    """Area and recalled share of each object of the truth."""
    count, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)
    found = np.bincount(labels.ravel(), weights=prediction.ravel(), minlength=count)
    return [(int(areas[i]), float(found[i] / areas[i])) for i in range(1, count)]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bands", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    task, data = restore(options.checkpoint)
    assert isinstance(task, SegmentationTask)  # noqa: S101 - what has masks
    assert isinstance(data, SegmentationDataModule)  # noqa: S101
    data.setup("validate")
    cases: list[tuple[str, NDArray[np.float32], Mask]] = []
    for batch in data.val_dataloader():
        with torch.no_grad():
            logits = shift(task(batch["image"], batch["text"]), task.threshold)
        probability = logits.softmax(dim=1)[:, 1]
        for name, one, mask in zip(batch["name"], probability, batch["mask"], strict=True):
            known = np.asarray(mask != IGNORE)
            cases.append((name, one.numpy() * known, np.asarray(mask == 1)))

    predictions = [probability > 0.5 for _, probability, _ in cases]
    truths = [truth for *_, truth in cases]
    for (name, _, truth), prediction in zip(cases, predictions, strict=True):
        print(f"{name}: Dice {dice(prediction, truth):.2f}")
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        scores = [dice(probability > threshold, truth) for _, probability, truth in cases]
        print(f"threshold {threshold}: Dice {np.mean(scores):.2f}")
    wrong = [p ^ t for p, t in zip(predictions, truths, strict=True)]
    missed = sum((w & t).sum() for w, t in zip(wrong, truths, strict=True))
    print(f"missed {100 * missed / sum(w.sum() for w in wrong):.1f} % of the wrong pixels")
    for width in options.bands:
        bands = [border_band(truth, width) for truth in truths]
        share = sum((w & b).sum() for w, b in zip(wrong, bands, strict=True))
        beyond = [dice(p & ~b, t & ~b) for p, t, b in zip(predictions, truths, bands, strict=True)]
        share = 100 * share / sum(w.sum() for w in wrong)
        print(
            f"within {width} px of a border: {share:.1f} % of the wrong pixels, "
            f"{100 * np.mean(bands):.1f} % of all; Dice beyond {np.mean(beyond):.2f}"
        )
    found = [o for p, t in zip(predictions, truths, strict=True) for o in objects(p, t)]
    table = pd.DataFrame(found, columns=["area", "recall"])
    table["size"] = pd.qcut(table["area"], 4, duplicates="drop")
    rows = table.groupby("size", observed=True)["recall"].agg(
        objects="size", recall=lambda r: 100 * r.mean(), lost=lambda r: 100 * (r < 0.5).mean()
    )
    print(rows.to_string(float_format="%.1f"))


if __name__ == "__main__":
    main()
