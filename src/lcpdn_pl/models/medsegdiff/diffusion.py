"""Diffusion of masks: noising, the bound that trains the variance, sampling."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lcpdn_pl.backbones.diffusion import ALPHA_BAR, BETA

Denoise = Callable[[Tensor, Tensor], Tensor]
"""From x_t [N, 1, H, W] and t, a scalar, to the noise and the variance's share [N, 2, H, W]."""

Sampler = Literal["ancestral", "dpm-solver++"]


def add_noise(mask: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al., equation 4).

    Args:
        mask: x_0 [B, 1, H, W] in {0, 1}.
        noise: eps [B, 1, H, W].
        timestep: t [B] in 0..999, on the CPU.

    Returns:
        x_t [B, 1, H, W].
    """
    rate = _of_images(ALPHA_BAR, timestep, mask)
    return rate.sqrt() * mask + (1 - rate).sqrt() * noise


def variance_bound(squared_error: Tensor, share: Tensor, timestep: Tensor) -> Tensor:
    """What the learned variance costs: KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)) in bits.

    p has the variance s = exp(u log beta_t + (1 - u) log b_t) with u = (v + 1) / 2 (Nichol and
    Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021, equation 15), q has
    b_t = beta_t (1 - abar_t-1) / (1 - abar_t), and their means differ by
    beta_t (eps' - eps) / sqrt((1 - beta_t)(1 - abar_t)). So the divergence is
    (log s - log b_t - 1 + b_t / s + beta_t^2 (eps' - eps)^2 / ((1 - beta_t)(1 - abar_t) s)) / 2.
    b_0 is 0; b_1 stands for it.

    Args:
        squared_error: (eps' - eps)^2 of the predicted noise [B, 1, H, W]; detach it, so that the
            bound trains the variance alone.
        share: v [B, 1, H, W], -1 for the smallest and 1 for the largest variance.
        timestep: t [B] in 0..999, on the CPU.

    Returns:
        [B, 1, H, W], 0 or more.
    """
    later = timestep.clamp(min=1)
    posterior = BETA * (1 - ALPHA_BAR / (1 - BETA)) / (1 - ALPHA_BAR)
    smallest = _of_images(posterior.log(), later, share)
    largest = _of_images(BETA.log(), timestep, share)
    log_variance = torch.lerp(smallest, largest, (share + 1) / 2)
    factor = _of_images(BETA**2 / ((1 - BETA) * (1 - ALPHA_BAR)), timestep, share)
    shrink = (smallest - log_variance).exp()
    distance = factor * squared_error * (-log_variance).exp()
    return (log_variance - smallest - 1 + shrink + distance) / (2 * math.log(2))


def sample(
    denoise: Denoise,
    size: tuple[int, int],
    seeds: Sequence[int],
    sampler: Sampler,
    steps: int,
    device: torch.device | None = None,
) -> Tensor:
    """Draws masks from noise.

    Args:
        denoise: Predicts the noise of N masks.
        size: Height and width.
        seeds: N, one a mask: of its first noise and of that which ancestral sampling adds.
        sampler: ``ancestral`` (Ho et al., algorithm 2, with the learned variance) or
            ``dpm-solver++`` (Lu et al., 2022, second order, multistep), which adds no noise.
        steps: Calls of ``denoise``, evenly spread over the 1000 steps of training.
        device: Where to draw them.

    Returns:
        [N, 1, H, W] in [0, 1].
    """
    scheduler = (
        DDPMScheduler(variance_type="learned_range", timestep_spacing="linspace")
        if sampler == "ancestral"
        else DPMSolverMultistepScheduler()
    )
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    masks: Tensor = randn_tensor((len(seeds), 1, *size), generators, device)
    for timestep in scheduler.timesteps:
        output = denoise(masks, timestep).float()
        if sampler == "dpm-solver++":
            output = output[:, :1]  # it has no use for a variance
        masks = scheduler.step(output, timestep, masks, generator=generators).prev_sample
    return masks.clamp(0, 1)


def _of_images(table: Tensor, timestep: Tensor, like: Tensor) -> Tensor:
    """The table's values at the timesteps, float32 [B, 1, 1, 1] on the other tensor's device."""
    return table[timestep].float().to(like.device).view(-1, 1, 1, 1)
