"""Noising, the variance's bound and sampling, against their equations and known denoisers."""

import math
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lcpdn_pl.backbones.diffusion import ALPHA_BAR, BETA
from lcpdn_pl.models.medsegdiff.diffusion import (
    Denoise,
    Sampler,
    add_noise,
    sample,
    variance_bound,
)

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


def mask() -> Tensor:
    return (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)) > 0.6).float()


def test_schedule_is_that_of_the_samplers() -> None:
    scheduler = DDPMScheduler()
    torch.testing.assert_close(BETA.float(), scheduler.betas)
    torch.testing.assert_close(ALPHA_BAR.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=0)


def test_noising_as_written_out() -> None:
    clean, noise = mask().repeat(3, 1, 1, 1), torch.randn(3, 1, 8, 8)
    noisy = add_noise(clean, noise, torch.tensor([0, 499, 999]))
    for index, timestep in enumerate((0, 499, 999)):
        rate = math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(timestep + 1))
        wanted = math.sqrt(rate) * clean[index] + math.sqrt(1 - rate) * noise[index]
        torch.testing.assert_close(noisy[index], wanted)


@pytest.mark.parametrize("timestep", [0, 1, 400, 999])
def test_variance_bound_is_the_divergence_of_two_normals(timestep: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = mask().double()
    noise, predicted, share = (
        torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    share = share.tanh()
    beta = [1e-4 + (0.02 - 1e-4) * s / 999 for s in range(1000)]
    rate = math.prod(1 - b for b in beta[: timestep + 1])
    before = math.prod(1 - b for b in beta[:timestep])
    noisy = math.sqrt(rate) * clean + math.sqrt(1 - rate) * noise

    def posterior_mean(of: Tensor) -> Tensor:
        """Ho et al., equation 7."""
        first = math.sqrt(before) * beta[timestep] / (1 - rate)
        return first * of + math.sqrt(1 - beta[timestep]) * (1 - before) / (1 - rate) * noisy

    guess = (noisy - math.sqrt(1 - rate) * predicted) / math.sqrt(rate)
    smallest = beta[timestep] * (1 - before) / (1 - rate)
    if timestep == 0:
        smallest = beta[1] * beta[0] / (1 - (1 - beta[0]) * (1 - beta[1]))
    part = (share + 1) / 2
    variance = (part * math.log(beta[timestep]) + (1 - part) * math.log(smallest)).exp()
    wanted = kl_divergence(
        Normal(posterior_mean(clean), math.sqrt(smallest)),
        Normal(posterior_mean(guess), variance.sqrt()),
    )
    error = (predicted - noise).square()
    found = variance_bound(error.float(), share.float(), torch.tensor([timestep]))
    torch.testing.assert_close(found, (wanted / math.log(2)).float(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [4, 25])
def test_a_perfect_denoiser_recovers_the_mask(sampler: Sampler, steps: int) -> None:
    clean = mask()
    calls: list[int] = []

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        calls.append(int(timestep))
        rate = ALPHA_BAR[timestep].float()
        noise = (noisy - rate.sqrt() * clean) / (1 - rate).sqrt()
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)

    found = sample(denoise, (8, 8), [0, 1], sampler, steps)
    torch.testing.assert_close(found, clean.repeat(2, 1, 1, 1), atol=2e-3, rtol=0)
    assert len(calls) == steps
    assert calls[0] == 999
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_is_that_of_the_seed(sampler: Sampler) -> None:
    first: list[Tensor] = []

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        if timestep == 999:
            first.append(noisy)
        return torch.cat([noisy, torch.zeros_like(noisy)], dim=1)

    together = sample(denoise, (8, 8), [3, 4, 3], sampler, 4)
    alone = sample(denoise, (8, 8), [4], sampler, 4)
    wanted = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first[0][1:2], wanted)
    assert torch.equal(first[1], wanted)
    torch.testing.assert_close(together[1:2], alone)
    torch.testing.assert_close(together[0], together[2])
    assert not torch.allclose(together[0], together[1])
    assert together.min() >= 0
    assert together.max() <= 1


def test_ancestral_sampling_takes_the_learned_variance() -> None:
    def predicting(share: float) -> Denoise:
        return lambda noisy, _: torch.cat([noisy, torch.full_like(noisy, share)], dim=1)

    small, large = (sample(predicting(share), (8, 8), [0], "ancestral", 4) for share in (-1.0, 1.0))
    assert (small - large).abs().mean() > 0.01


def test_dpm_solver_is_of_second_order_as_written_out() -> None:
    """Lu et al. (2022), algorithm 2, whose last step ends at the denoiser's own guess."""
    called: list[int] = []

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        called.append(int(timestep))
        rate = ALPHA_BAR[timestep].float()
        noise = (noisy - rate.sqrt() * torch.sigmoid(2 * noisy)) / (1 - rate).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)

    found = sample(denoise, (8, 8), [0], "dpm-solver++", 5)
    masks = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    rates = ALPHA_BAR[called]
    alpha, sigma = rates.sqrt(), (1 - rates).sqrt()
    half_log = (alpha / sigma).log()
    guesses: list[Tensor] = []
    for k in range(len(called)):
        guess = torch.sigmoid(2 * masks)
        guesses.append(guess)
        if k == len(called) - 1:
            masks = guess
            break
        step = half_log[k + 1] - half_log[k]
        if k:
            before = half_log[k] - half_log[k - 1]
            guess = guess + step / (2 * before) * (guess - guesses[k - 1])
        masks = sigma[k + 1] / sigma[k] * masks - alpha[k + 1] * torch.expm1(-step) * guess
    torch.testing.assert_close(found, masks.float(), atol=1e-4, rtol=0)
