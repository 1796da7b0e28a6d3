"""MedSegDiff: masks drawn by a diffusion model that is conditioned on the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from diffusers import UNet2DModel
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from lcpdn_pl.backbones.base import check_sides
from lcpdn_pl.backbones.diffusion import BETA
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import foreground_logits
from lcpdn_pl.models.medsegdiff.condition import ConditionNetwork
from lcpdn_pl.models.medsegdiff.diffusion import Sampler, sample

_DIVISOR = 32


@dataclass(frozen=True)
class Ensemble:
    """Masks that were drawn for each image of a batch.

    Attributes:
        samples: [B, n, H, W] in [0, 1].
    """

    samples: Tensor

    @property
    def mean(self) -> Tensor:
        """Probability of the foreground: the samples' mean [B, H, W]."""
        return self.samples.mean(dim=1)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the samples, the uncertainty [B, H, W] in [0, 0.5]."""
        return self.samples.std(dim=1, correction=0)

    @property
    def agreement(self) -> Tensor:
        """Share of the samples that have a pixel on the mean's side of 1/2, [B, H, W]."""
        mask = (self.mean > 0.5).unsqueeze(1)
        return ((self.samples > 0.5) == mask).float().mean(dim=1)

    @property
    def logits(self) -> Tensor:
        """Logits [B, 2, H, W] whose softmax is the mean, kept within 0.001 and 0.999."""
        return foreground_logits(torch.logit(self.mean, eps=1e-3).unsqueeze(1))


class MedSegDiff(Network):
    """MedSegDiff (Wu et al., MIDL 2023); reads no report.

    :class:`lcpdn_pl.tasks.DiffusionSegmentationTask` trains it: it learns from noised masks.

    Args:
        width: Channels of the first level; a multiple of 4.
        dropout: Of the channels in the condition network's encoder.
        sampler: See :func:`lcpdn_pl.models.medsegdiff.diffusion.sample`.
        steps: Denoising steps of a sample, 2 to 1000.
        ensemble: Samples of an image; their mean is the prediction.
        noise_seed: Of the noises, which are the same for every image.

    Raises:
        ConfigError: If an argument is out of range; in ``forward``, if a side of the image is no
            multiple of 32; in ``training_forward``, which has no mask to learn from.
    """

    def __init__(
        self,
        width: PositiveInt = 128,
        dropout: ClosedUnitInterval = 0.5,
        sampler: Sampler = "dpm-solver++",
        steps: PositiveInt = 20,
        ensemble: PositiveInt = 5,
        noise_seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ConfigError(
                f"width is {width}: expected a multiple of 4; the published one is 128, that of "
                "the small preset 32."
            )
        if sampler not in get_args(Sampler):
            raise ConfigError(
                f"sampler is {sampler!r}: expected one of {', '.join(get_args(Sampler))}."
            )
        if not 2 <= steps <= len(BETA):
            raise ConfigError(
                f"steps is {steps}: expected 2 to {len(BETA)}; 20 to 50 are usual for dpm-solver++."
            )
        if ensemble < 1:
            raise ConfigError(f"ensemble is {ensemble}: expected 1 sample of an image or more.")
        self.sampler: Sampler = sampler
        self.steps = steps
        self.ensemble = ensemble
        self.noise_seed = noise_seed
        self.condition_network = ConditionNetwork(width, dropout)
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.unet = UNet2DModel(
            in_channels=width,
            out_channels=2,
            block_out_channels=[width * factor for factor in (1, 1, 2, 2, 4, 4)],
            # Attention, of one head, where an image of 256 pixels has 16.
            down_block_types=[*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
            attention_head_dim=None,
            # Of 4 channels at the first level, whatever its width: a group of one would take
            # away the step's embedding, which is added channel by channel before the norm.
            norm_num_groups=width // 4,
            flip_sin_to_cos=True,
            freq_shift=0,
        )
        self.unet.conv_in = nn.Identity()  # the stem, to whose output the anchors are added

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:  # noqa: ARG002 - reads none
        """See :meth:`lcpdn_pl.models.base.Network.forward`; the logits of :meth:`sample`."""
        return self.sample(image).logits

    def training_forward(
        self,
        image: Tensor,  # noqa: ARG002 - the base class's signature
        text: Sequence[str],  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Refuses: without the mask there is nothing to denoise."""
        raise ConfigError(
            "medsegdiff learns from noised masks, which a SegmentationTask does not show it: "
            "expected a DiffusionSegmentationTask. Set it as model.class_path, as "
            "configs/methods/medsegdiff.yaml does."
        )

    @torch.no_grad()
    def sample(self, image: Tensor) -> Ensemble:
        """Draws the masks of a batch, without gradients.

        The noises are the same for every image, so that its masks do not depend on the others of
        its batch. Sample k has the seed ``noise_seed * ensemble + k``: ensembles of different
        seeds share no noise.

        Args:
            image: [B, 3, H, W] in [-1, 1].
        """
        anchors, _ = self.condition(image)
        # The condition does not depend on the step, so that once is enough.
        image, anchors = (part.repeat_interleave(self.ensemble, 0) for part in (image, anchors))
        first = self.noise_seed * self.ensemble
        seeds = list(range(first, first + self.ensemble))
        height, width = image.shape[-2:]
        masks = sample(
            lambda noisy, timestep: self.denoise(image, anchors, noisy, timestep),
            (height, width),
            seeds * (len(image) // self.ensemble),
            self.sampler,
            self.steps,
            image.device,
        )
        return Ensemble(masks.view(-1, self.ensemble, height, width))

    def condition(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Anchors [B, width, H, W], and the calibration mask's score [B, 1, H, W].

        The anchors are detached: the calibration mask alone trains the condition network.

        Args:
            image: [B, 3, H, W] in [-1, 1].
        """
        check_sides(image, _DIVISOR, "medsegdiff")
        anchors, score = self.condition_network(image)
        return anchors.detach(), score

    def denoise(self, image: Tensor, anchors: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Predicts the noise.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            anchors: Of :meth:`condition`.
            noisy: x_t [B, 1, H, W].
            timestep: t, [B] or a scalar, in 0..999.

        Returns:
            [B, 2, H, W]: the noise, then v, from -1 for the smallest variance to 1 for the largest.
        """
        hidden = self.stem(torch.cat([image, noisy], dim=1)) + anchors
        predicted: Tensor = self.unet(hidden, timestep).sample
        return predicted
