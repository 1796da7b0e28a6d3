"""Pretraining of a denoiser on images without labels."""

from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from lcpdn_pl.backbones.base import check_sides
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import ALPHA_BAR, folding
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.tasks.base import Task, step_seed

RANGES = tuple(pairwise((0, 100, 300, 600, 1000)))
"""Ranges of timesteps [first, end) whose held-out losses are logged one by one."""


class DenoisingTask(Task):
    """Unconditional DDPM training (Ho et al., NeurIPS 2020): predict the noise.

    The loss is the mean of (eps - eps_theta(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t))^2 with t
    drawn from the 1000 steps of the linear schedule. The rate rises linearly and falls as a
    cosine to 0 over the whole run. Held-out losses and samples are those of the exponential moving
    average of the weights, which is what a run exports.

    Args:
        denoiser: What to start from, see :func:`lcpdn_pl.backbones.denoisers.create_denoiser`.
        optimizer: Its learning rate is the highest one.
        warmup_steps: Steps in which the rate rises.
        ema_decay: Decay of the average; n steps into the run at most (1 + n) / (10 + n).
        timestep_power: t is 1000 u^power with u uniform in [0, 1). 1 draws every step equally often
            (the paper); 2 draws a third of them below 100, where most of the loss lies and
            where features for segmentation are read.

    Raises:
        WeightsError: If the denoiser cannot be made.
        ConfigError: If it does not predict the noise, and from nothing but image and timestep.
    """

    monitor = "val/loss"
    monitor_mode = "min"

    def __init__(
        self,
        denoiser: str = "lcpdn-ddpm-small:random",
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-4),
        warmup_steps: int = 500,
        ema_decay: float = 0.999,
        timestep_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        unet, _ = create_denoiser(denoiser)
        if unet.config.out_channels != unet.config.in_channels:
            raise ConfigError(
                f"{denoiser} maps {unet.config.in_channels} channels to "
                f"{unet.config.out_channels}; expected as many out as in, the predicted noise. "
                "Denoisers with a learned variance cannot be trained here."
            )
        if unet.class_embedding is not None:
            raise ConfigError(f"{denoiser} is conditioned on classes, which a pool does not have.")
        self.patch, self.divisor = folding(unet, denoiser)
        self.unet = unet.requires_grad_(True).train()
        self.ema = AveragedModel(self.unet, multi_avg_fn=_Average(ema_decay))
        self.ema.requires_grad_(False)
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.timestep_power = timestep_power
        self.register_buffer("abar", ALPHA_BAR.float(), persistent=False)

    abar: Tensor

    @property
    def method(self) -> str:
        """``ddpm``."""
        return "ddpm"

    def describe(self) -> dict[str, str]:
        """See :meth:`Task.describe`."""
        count = sum(p.numel() for p in self.unet.parameters())
        return {"denoiser": self.denoiser, "parameters": f"{count:,} trainable"}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with warm-up and cosine stepped after every batch."""
        optimizer = self.optimizer(self.unet.parameters())
        total = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup_steps, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Lets a run that was stopped within an epoch go on with its next batch."""
        # To know how many steps there are, configure_optimizers has the loader made, and Lightning
        # restores that of a run only where it makes it later.
        self.trainer.fit_loop._load_combined_loader_states()

    def training_step(self, image: Tensor, batch_index: int) -> Tensor:
        """One step; timesteps and noise depend on seed, epoch and batch alone.

        Raises:
            RunError: If the loss is not finite, see :meth:`Task.refuse_loss`.
        """
        seed = step_seed(torch.initial_seed(), self.global_rank, self.current_epoch, batch_index)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(len(image), generator=generator)
        timestep = (len(self.abar) * uniform**self.timestep_power).long()
        loss = self.noise_loss(self.unet, image, timestep.to(image.device), generator).mean()
        self.refuse_loss(loss, image, "of the pool")
        optimizer = self.optimizers()
        self.log("lr", optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]
        self.log("train/loss", loss.detach(), prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Moves the average along with the weights."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.unet)

    def validation_step(self, image: Tensor, batch_index: int) -> None:
        """Logs the held-out loss by range of timesteps; the draws are the same every time.

        Raises:
            RunError: If it is not finite, see :meth:`Task.refuse_loss`.
        """
        generator = torch.Generator().manual_seed(batch_index)
        losses = []
        for first, end in RANGES:
            timestep = torch.randint(first, end, (len(image),), generator=generator)
            loss = self.noise_loss(self.ema.module, image, timestep.to(image.device), generator)
            losses.append(loss.mean())
            self.log(f"val/loss_{first:03d}_{end - 1:03d}", losses[-1], batch_size=len(image))
        mean = torch.stack(losses).mean()
        self.refuse_loss(mean, image, "held out")
        self.log("val/loss", mean, prog_bar=True, batch_size=len(image))

    def noise_loss(
        self,
        unet: torch.nn.Module,
        image: Tensor,
        timestep: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Squared error of the predicted noise, one mean an image.

        Args:
            unet: The network or its average.
            image: x_0 [B, 3, H, W] in [-1, 1].
            timestep: [B] in 0..999.
            generator: Draws the noise, on the CPU.

        Returns:
            [B].

        Raises:
            ConfigError: If the image's sides do not suit the denoiser.
        """
        check_sides(image, self.divisor, self.denoiser)
        noise = torch.randn(image.shape, generator=generator).to(image)
        rate = self.abar[timestep].view(-1, 1, 1, 1)
        noised = rate.sqrt() * image + (1 - rate).sqrt() * noise
        predicted = unet(F.pixel_unshuffle(noised, self.patch), timestep).sample
        error = (predicted - F.pixel_unshuffle(noise, self.patch)).square()
        per_image: Tensor = error.flatten(1).mean(dim=1)
        return per_image

    @torch.no_grad()
    def sample(self, count: int, side: int, num_steps: int = 50, seed: int = 0) -> Tensor:
        """Draws images from the averaged denoiser (DDIM, Song et al., ICLR 2021).

        Args:
            count: Number of images.
            side: Their side in pixels.
            num_steps: Denoising steps.
            seed: Of the starting noise.

        Returns:
            [count, 3, side, side] in [-1, 1].
        """
        scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing")
        scheduler.set_timesteps(num_steps)
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(count, 3, side, side, generator=generator).to(self.device)
        folded = F.pixel_unshuffle(images, self.patch)
        for timestep in scheduler.timesteps.to(self.device):
            predicted = self.ema.module(folded, timestep).sample
            folded = scheduler.step(predicted, timestep, folded).prev_sample
        return F.pixel_shuffle(folded, self.patch).clamp(-1, 1)


class _Average:
    """Exponential moving average whose decay starts low, so that the start is soon forgotten."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def __call__(
        self,
        averages: tuple[Tensor, ...] | list[Tensor],
        values: tuple[Tensor, ...] | list[Tensor],
        count: Tensor | int,
    ) -> None:
        count = int(count)  # once for all: a GPU is waited for
        decay = min(self.decay, (1 + count) / (10 + count))
        for average, value in zip(averages, values, strict=True):
            average.copy_(torch.lerp(value, average, decay))
