"""The prompted diffusion UNet: features of noised images from a frozen denoiser.

Equation numbers are those of the package's method page, ``models/lcpdn/README.md``.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Literal

import torch
from diffusers import UNet2DModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lcpdn_pl.backbones.base import FrozenBackbone, check_sides
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.errors import ConfigError

BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
"""beta_t of the linear noise schedule (Ho et al., "Denoising diffusion probabilistic models",
NeurIPS 2020)."""
ALPHA_BAR = torch.cumprod(1 - BETA, dim=0)
"""abar_t, how much of the signal is left: the product of 1 - beta up to t."""


class _Block(nn.Module):
    """One block as guided-diffusion counts them: layers in a row, the skip joined to its input."""

    def __init__(self, *layers: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer in layers if layer is not None)

    @property
    def width(self) -> int:
        """Channels of the output."""
        first = self.layers[0]
        assert isinstance(first, ResnetBlock2D | Downsample2D)  # noqa: S101 - every block begins so
        return int(first.out_channels)

    def forward(self, hidden: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            hidden = torch.cat([hidden, skip], dim=1)
        for layer in self.layers:
            # Attention and resampling convolutions are not conditioned.
            conditioned = isinstance(layer, ResnetBlock2D)
            hidden = layer(hidden, embedding) if conditioned else layer(hidden)
        return hidden


def _input_blocks(unet: UNet2DModel) -> nn.ModuleList:
    blocks = nn.ModuleList()
    for level in unet.down_blocks:
        attentions = getattr(level, "attentions", [None] * len(level.resnets))
        blocks.extend(map(_Block, level.resnets, attentions))
        blocks.extend(map(_Block, level.downsamplers or []))
    return blocks


def _output_blocks(unet: UNet2DModel) -> list[_Block]:
    blocks: list[_Block] = []
    for level in unet.up_blocks:
        attentions = getattr(level, "attentions", [None] * len(level.resnets))
        # What upsamples belongs to the last block of its level.
        upsamplers = [None] * (len(level.resnets) - 1) + list(level.upsamplers or [None])
        blocks += map(_Block, level.resnets, attentions, upsamplers)
    return blocks


def _output_strides(unet: UNet2DModel) -> list[int]:
    """Pixels of the denoiser's input that a position of each decoder block's output stands for."""
    stride = 2 ** (len(unet.config.block_out_channels) - 1)
    strides: list[int] = []
    for level in unet.up_blocks:
        strides += [stride] * len(level.resnets)
        if level.upsamplers:
            stride //= 2
            strides[-1] = stride
    return strides


def folding(unet: UNet2DModel, name: str) -> tuple[int, int]:
    """How a denoiser takes an image: in patches p x p that are folded into 3 * p * p channels.

    Returns:
        p, and what both sides of the image must be multiples of.

    Raises:
        ConfigError: If its input is something else than such an image in [-1, 1].
    """
    patch = math.isqrt(max(unet.config.in_channels, 3) // 3)
    if unet.config.in_channels != 3 * patch**2 or unet.config.center_input_sample:
        raise ConfigError(
            f"{name} takes {unet.config.in_channels} channels"
            f"{', centred by itself' * bool(unet.config.center_input_sample)}: expected a denoiser "
            "of RGB images in [-1, 1], of 3 channels, or 12, 27... for folded patches."
        )
    return patch, int(patch * 2 ** (len(unet.config.block_out_channels) - 1))


class DiffusionFeatures(FrozenBackbone):
    """Decoder features of a frozen denoiser at several noise levels (CPRFL, part 2).

    For each step t: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (eq. 4), the embedding of t plus
    the prompt conditions every residual block (eq. 5), and the outputs of the chosen decoder
    blocks are the features (eq. 6). One eps serves all images and steps, so that the features of
    an image are a fixed function of it and of the prompt. The denoiser is cut after the deepest
    chosen block: what lies above is neither run nor kept.

    A denoiser whose input has 3 * p * p channels takes the image with each p x p patch folded
    into channels.

    Args:
        unet: The denoiser. Its conditioning must be on the timestep alone.
        blocks: Decoder blocks, counted as guided-diffusion's ``output_blocks``, ascending.
        steps: Timesteps in 0..999, e.g. ``[50, 150, 250]``.
        noise: eps [1, 3, H, W]; ``None`` draws it from ``noise_seed`` at each image size.
        noise_seed: Seed of eps.
        step_batch: Timesteps that run in one batch; ``None`` runs all of them together.
        gradient_checkpointing: Recompute each block in the backward pass of the prompt instead
            of keeping its activations.
        prompt_injection: What a prompt does: ``embedding`` adds it to the embedding of every
            timestep (the paper); ``scale_shift`` scales and shifts the channels of every block's
            output, h (1 + s) + b.
        compile: Compile the pass with ``torch.compile``, once for each input shape; needs a C++
            compiler.
        store: Keeps the features of passes whose prompt needs no gradient, for images that come
            again; ``None`` computes them each time.
        name: Name for logs and tables.
        pretrained: Whether the denoiser's weights were trained.

    Attributes:
        channels: Channels of each feature map, S * C_k.
        strides: Pixels of the image that a position of each feature map stands for.
        prompt_channels: Width of a prompt: d of the time embedding, or that of every block's s
            and b in a row.
        divisor: Image sides must be multiples of this.

    Raises:
        ConfigError: If a block or step is out of range, the blocks are not ascending, the denoiser
            is conditioned on classes or takes no RGB image, see :func:`folding`.
    """

    noise: Tensor | None
    timesteps: Tensor
    signal: Tensor

    def __init__(
        self,
        unet: UNet2DModel,
        blocks: Sequence[int],
        steps: Sequence[int],
        noise: Tensor | None = None,
        noise_seed: int = 0,
        step_batch: int | None = None,
        gradient_checkpointing: bool = False,
        prompt_injection: Literal["embedding", "scale_shift"] = "embedding",
        compile: bool = False,
        store: FeatureStore | None = None,
        name: str = "unet",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        output_blocks = _output_blocks(unet)
        signal = ALPHA_BAR.float()
        if not blocks or list(blocks) != sorted(set(blocks) & set(range(len(output_blocks)))):
            raise ConfigError(
                f"blocks={list(blocks)} must be ascending numbers of decoder blocks; this denoiser "
                f"has blocks 0 to {len(output_blocks) - 1}."
            )
        if not steps or not set(steps) <= set(range(len(signal))):
            raise ConfigError(
                f"steps={list(steps)} must be timesteps between 0 and {len(signal) - 1}."
            )
        if unet.class_embedding is not None:
            raise ConfigError(
                f"{name} is conditioned on classes; expected a denoiser conditioned on the "
                "timestep alone, such as 256x256_diffusion_uncond.pt."
            )
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.conv_in = unet.conv_in
        self.input_blocks = _input_blocks(unet)
        self.mid_block = unet.mid_block
        self.output_blocks = nn.ModuleList(output_blocks[: max(blocks) + 1])

        self.config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        self.blocks = list(blocks)
        self.step_batch = step_batch or len(steps)
        self.noise_seed = noise_seed
        self.gradient_checkpointing = gradient_checkpointing
        self.patch, self.divisor = folding(unet, name)
        widths = [block.width for block in (*self.input_blocks, *self.output_blocks)]
        widths.insert(len(self.input_blocks), self.input_blocks[-1].width)  # of the middle
        self.modulated = [2 * w for w in widths] if prompt_injection == "scale_shift" else None
        embed_width: int = unet.time_embedding.linear_2.out_features
        self.prompt_channels = sum(self.modulated) if self.modulated else embed_width
        self.channels = [output_blocks[block].width * len(steps) for block in blocks]
        self.strides = [self.patch * _output_strides(unet)[block] for block in blocks]
        # NHWC: what the fast convolutions of GPUs and CPUs work in.
        self.to(memory_format=torch.channels_last)
        self.store = store
        self._run = torch.compile(self._pass) if compile else self._pass
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("timesteps", torch.tensor(list(steps)), persistent=False)
        self.register_buffer("signal", signal[list(steps)], persistent=False)
        self.freeze(name, pretrained)

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> list[Tensor]:
        """Computes the features of the chosen blocks.

        Args:
            image: x_0 [B, 3, H, W] in [-1, 1].
            prompt: TextProj(E) [B, prompt_channels], the same for every timestep; gradients reach
                it through the frozen denoiser. ``None`` is the plain denoiser.

        Returns:
            One tensor [B, S * C_k, H_k, W_k] a block; channels are grouped by timestep.

        Raises:
            ConfigError: If the image's sides do not suit the denoiser.
        """
        needs_gradient = prompt is not None and prompt.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(needs_gradient):
            if self.store is None or needs_gradient:
                return self._compute(image, prompt)
            return self._recall(self.store, image, prompt)

    def _recall(self, store: FeatureStore, image: Tensor, prompt: Tensor | None) -> list[Tensor]:
        """The features from the store; what it lacks is computed in one batch and put there."""
        keys = [self._key(image, prompt, index) for index in range(len(image))]
        entries = [store.read(key) for key in keys]
        missing = [index for index, entry in enumerate(entries) if entry is None]
        if missing:
            computed = self._compute(image[missing], None if prompt is None else prompt[missing])
            for row, index in enumerate(missing):
                entry = entries[index] = [block[row] for block in computed]
                store.write(keys[index], entry)
        found = [entry for entry in entries if entry is not None]
        return [torch.stack([m.to(image.device) for m in b]) for b in zip(*found, strict=True)]

    def _key(self, image: Tensor, prompt: Tensor | None, index: int) -> str:
        """Hash of everything that the features are a function of."""
        autocast = torch.is_autocast_enabled(image.device.type)
        dtype = torch.get_autocast_dtype(image.device.type) if autocast else image.dtype
        settings = (
            self._weights,
            self.config,
            self.blocks,
            self.timesteps.tolist(),
            self.noise_seed,
            self.modulated,
        )
        shape = (dtype, tuple(image.shape[1:]), self.noise is None, prompt is None)
        digest = hashlib.blake2b(repr((*settings, *shape)).encode(), digest_size=16)
        for tensor in (image, self.noise, prompt):
            if tensor is not None:
                row = tensor[min(index, len(tensor) - 1)]
                # As bytes, since NumPy knows no bfloat16, which a prompt under autocast is.
                content = row.detach().cpu().contiguous().view(torch.uint8)
                digest.update(content.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _weights(self) -> str:
        return self.fingerprint()

    def _compute(self, image: Tensor, prompt: Tensor | None) -> list[Tensor]:
        parts = [
            self._run(self.noised(image, signal), timesteps, prompt)
            for timesteps, signal in zip(
                self.timesteps.split(self.step_batch),
                self.signal.split(self.step_batch),
                strict=True,
            )
        ]
        return [torch.cat(block, dim=1) for block in zip(*parts, strict=True)]

    def noised(self, image: Tensor, signal: Tensor) -> Tensor:
        """x_t of each abar_t in ``signal`` [S], as [S, B, 3, H, W] (eq. 4)."""
        check_sides(image, self.divisor, self.name)
        noise = self.noise
        if noise is None:
            generator = torch.Generator().manual_seed(self.noise_seed)
            noise = torch.randn(1, 3, *image.shape[-2:], generator=generator).to(image)
        rate = signal.view(-1, 1, 1, 1, 1)
        return rate.sqrt() * image + (1 - rate).sqrt() * noise

    def _pass(self, noised: Tensor, timesteps: Tensor, prompt: Tensor | None) -> list[Tensor]:
        """One pass of the denoiser over [S, B, 3, H, W], steps and images in one batch."""
        num_steps, batch = noised.shape[:2]
        embedding = self.time_embedding(self.time_proj(timesteps).to(noised.dtype))
        embedding = embedding.repeat_interleave(batch, dim=0)
        modulations: Iterator[Tensor | None] = repeat(None)
        if prompt is not None:
            prompt = prompt.repeat(num_steps, 1)
            if self.modulated:
                modulations = iter(prompt.split(self.modulated, dim=1))
            else:
                embedding = embedding + prompt

        folded = F.pixel_unshuffle(noised.flatten(0, 1), self.patch)
        hidden = self.conv_in(folded.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for block in self.input_blocks:
            hidden = _modulate(self._through(block, hidden, embedding), next(modulations))
            skips.append(hidden)
        hidden = _modulate(self._through(self.mid_block, hidden, embedding), next(modulations))
        features = []
        for index, block in enumerate(self.output_blocks):
            hidden = self._through(block, hidden, embedding, skips.pop())
            hidden = _modulate(hidden, next(modulations))
            if index in self.blocks:
                grouped = hidden.unflatten(0, (num_steps, batch)).transpose(0, 1)
                features.append(grouped.flatten(1, 2))
        return features

    def _through(self, block: nn.Module, *args: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            output: Tensor = checkpoint(block, *args, use_reentrant=False)
        else:
            output = block(*args)
        return output


def _modulate(hidden: Tensor, modulation: Tensor | None) -> Tensor:
    if modulation is None:
        return hidden
    scale, shift = modulation[..., None, None].chunk(2, dim=1)
    return hidden * (1 + scale) + shift
