"""A second epoch with the feature cache against one without: time, and the same losses.

LCPDN without a prompt (``cprfl: false``) is trained for two epochs on a few images, the same ones
in the same order, without and with a cache. The first epoch fills it. Times are of the second.

    python benchmarks/feature_cache.py lcpdn-ddpm-small
    python benchmarks/feature_cache.py benchmarks/adm256.json --images 2
"""

import argparse
import tempfile
import time

import torch
from torch import Tensor

from lcpdn_pl.losses import DiceCELoss
from lcpdn_pl.models import LCPDN


def train(denoiser: str, folder: str | None, images: Tensor) -> tuple[list[float], float, float]:
    """Trains two epochs: all losses, the second epoch's seconds, and those of its features."""
    torch.manual_seed(0)
    network = LCPDN(denoiser=denoiser, cprfl=False, feature_cache=folder).train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    loss_of = DiceCELoss()
    losses = []
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for image in images:
            optimizer.zero_grad()
            mask = (image.mean(dim=0) > 0).long()
            loss = loss_of(network(image[None], ["Round nuclei."]), mask[None])["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    for image in images:
        network.features(image[None])
    return losses, seconds, time.perf_counter() - start


def main() -> None:
    """Prints both ways and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("denoiser", help="as the option `denoiser` takes them")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.images, 3, options.size, options.size, generator=generator) * 2 - 1
    with tempfile.TemporaryDirectory() as folder:
        plain, plain_epoch, plain_features = train(options.denoiser, None, images)
        cached, cached_epoch, cached_features = train(options.denoiser, folder, images)
    print(f"{options.denoiser}, {options.images} images of {options.size} px, second epoch")
    print(
        f"features:       {plain_features:.3f} s without, {cached_features:.3f} s with the cache, "
        f"{plain_features / cached_features:.1f} times faster"
    )
    print(
        f"training epoch: {plain_epoch:.3f} s without, {cached_epoch:.3f} s with the cache, "
        f"{plain_epoch / cached_epoch:.1f} times faster"
    )
    differences = [abs(a - b) for a, b in zip(plain, cached, strict=True)]
    print(f"largest difference of {len(plain)} losses: {max(differences):.3g}")


if __name__ == "__main__":
    main()
