"""What frozen features are worth: one small head on them, on MoNuSeg with five training images.

Every denoiser given, the first one with random weights too, and the raw pixels get the same head:
each block's features standardised and projected to 32 channels, brought to the image's size,
classified by LCPDN's pixel classifier or, with ``--pointwise``, by the same with 1 x 1 kernels,
which sees the features of one position alone and so measures them and not the head.

Training uses the five images and their seven flips and turns (features computed once),
cross-entropy and 1.5 Dice, Adam, a fixed number of steps. Seeds 0 to 4 are the five draws of
training images in the package. Scores are Dice by the ``compat`` mask rule at 256 px; with
``--split train`` of the training images themselves, more than unseen ones would have.

    python benchmarks/feature_worth.py lcpdn-ddpm-small --random --pixels --split test
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import DiffusionFeatures
from lcpdn_pl.data import MoNuSeg
from lcpdn_pl.losses import DiceCELoss
from lcpdn_pl.metrics import SegmentationScore
from lcpdn_pl.models.blocks import PixelClassifier

Extract = Callable[[Tensor], list[Tensor]]


class Head(nn.Module):
    """Standardise and project each scale, bring all to one size, classify."""

    def __init__(self, channels: Sequence[int], pointwise: bool, width: int = 32) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm2d(c), nn.Conv2d(c, width, 1)) for c in channels
        )
        self.classifier: nn.Module = PixelClassifier(width * len(channels), (64, 32))
        if pointwise:
            self.classifier = pointwise_like(self.classifier)

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits [B, 2, *size]."""
        projected = [scale(f) for scale, f in zip(self.scales, features, strict=True)]
        resized = [F.interpolate(p, list(size), mode="bilinear") for p in projected]
        logits: Tensor = self.classifier(torch.cat(resized, dim=1))
        return logits


def pointwise_like(classifier: nn.Module) -> nn.Sequential:
    """The same layers with 1 x 1 kernels."""
    return nn.Sequential(
        *(
            nn.Conv2d(layer.in_channels, layer.out_channels, 1)
            if isinstance(layer, nn.Conv2d)
            else layer
            for layer in classifier.children()
        )
    )


def turned(tensor: Tensor, turn: int) -> Tensor:
    """One of the eight flips and turns of the last two dimensions."""
    tensor = torch.rot90(tensor, turn % 4, (-2, -1))
    return tensor.flip(-1) if turn >= 4 else tensor


def load(protocol: str, split: str) -> list[tuple[Tensor, Tensor]]:
    """Images [3, 256, 256] and masks [256, 256] of a split."""
    data = MoNuSeg(protocol=protocol, augment="none")
    data.setup("fit")
    rows = data.samples[data.samples["split"] == split]
    dataset = data._dataset(rows, "compat")
    return [(s["image"], s["mask"]) for s in (dataset[i] for i in range(len(dataset)))]


def score(extract: Extract, seed: int, split: str, steps: int, pointwise: bool) -> float:
    """Dice in percent of one head."""
    protocol = "paper" if seed == 0 else f"draw_{seed}"
    train = [
        (extract(turned(image, turn)[None]), turned(mask, turn)[None])
        for image, mask in load(protocol, "train")
        for turn in range(8)
    ]
    torch.manual_seed(seed)
    head = Head([f.shape[1] for f in train[0][0]], pointwise)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    loss = DiceCELoss(dice_weight=1.5)
    order = np.random.default_rng(seed)
    for _ in range(steps):
        features, mask = train[order.integers(len(train))]
        optimizer.zero_grad()
        loss(head(features, mask.shape[-2:]), mask)["loss"].backward()
        optimizer.step()
    head.eval()
    result = SegmentationScore()
    with torch.no_grad():
        for image, mask in load(protocol, split):
            result.update(head(extract(image[None]), mask.shape[-2:]), mask[None])
    return 100 * float(result.compute()["dice"])


def denoiser(name: str, blocks: Sequence[int], steps: Sequence[int]) -> Extract:
    """Features of a denoiser."""
    unet, pretrained = create_denoiser(name)
    features = DiffusionFeatures(unet, blocks, steps, name=name, pretrained=pretrained)
    return lambda image: features(image)


def beside_pixels(extract: Extract) -> Extract:
    """The features, and the image as one more scale."""
    return lambda image: [*extract(image), image]


def main() -> None:
    """Prints a table of Dice, one row for each kind of features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("denoisers", nargs="*", help="as the option `denoiser` takes them")
    parser.add_argument("--random", action="store_true", help="the small denoiser, random weights")
    parser.add_argument("--pixels", action="store_true", help="the image itself")
    parser.add_argument("--beside", action="store_true", help="each with the image beside it too")
    parser.add_argument("--pointwise", action="store_true", help="a head of 1 x 1 kernels")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 8, 12, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 150, 250])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--split", choices=["train", "val", "test"], default="val")
    options = parser.parse_args()
    names = [*options.denoisers, *(["lcpdn-ddpm-small:random"] if options.random else [])]
    kinds: dict[str, Extract] = {
        name: denoiser(name, options.blocks, options.steps) for name in names
    }
    if options.beside:
        kinds |= {f"{name} + pixels": beside_pixels(extract) for name, extract in kinds.items()}
    if options.pixels:
        kinds["pixels"] = lambda image: [image]
    rows = []
    for name, extract in kinds.items():
        start = time.perf_counter()
        scores = [
            score(extract, seed, options.split, options.iterations, options.pointwise)
            for seed in range(options.seeds)
        ]
        rows.append(
            {
                "features": name,
                "mean": np.mean(scores),
                "deviation": np.std(scores, ddof=1) if len(scores) > 1 else 0.0,
                "seeds": " ".join(f"{value:.1f}" for value in scores),
                "seconds": round(time.perf_counter() - start),
            }
        )
        print(pd.DataFrame(rows).to_string(index=False, float_format="%.2f"), flush=True)


if __name__ == "__main__":
    main()
