"""LCPDN: lightweight cross-text-vision prompting diffusion network."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import DiffusionFeatures
from lcpdn_pl.backbones.image import create_image_encoder
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.errors import ConfigError, RunError
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.blocks import InstanceConvPair
from lcpdn_pl.models.lcpdn.fusion import LTFR, CrossAttention
from lcpdn_pl.models.lcpdn.head import ConcatHead, PyramidHead
from lcpdn_pl.models.lcpdn.prompt import TextVisionPrompt
from lcpdn_pl.models.places import named_places


class LCPDN(Network):
    """A frozen denoiser prompted by report and image, and a light fusion head on its features.

    The report and image tokens become a prompt (CPRFL, part 1) that is added to the denoiser's
    time embedding; the denoiser's decoder features at several noise levels (CPRFL, part 2) are
    fused with the report tokens at each scale (LTFR) and classified pixel by pixel.

    The defaults are the embedded backbones, which need no download;
    ``configs/backbones/paper.yaml`` holds the paper's.

    Args:
        image_encoder: See :func:`lcpdn_pl.backbones.image.create_image_encoder`.
        text_encoder: See :func:`lcpdn_pl.backbones.text.create_text_encoder`.
        denoiser: See :func:`lcpdn_pl.backbones.denoisers.create_denoiser`.
        denoiser_options: Options of a guided-diffusion checkpoint, as its scripts call them: they
            are checked or, such as ``num_head_channels``, cannot be told from the file.
        blocks: Decoder blocks of the denoiser whose outputs are the features.
        steps: Timesteps at which the image is noised.
        noise_seed: Seed of the one noise that all images and steps share.
        step_batch: Timesteps that run in one batch; null runs all of them together.
        gradient_checkpointing: Trade time for memory on the prompt's way back through the
            denoiser.
        compile: Compile the denoiser with ``torch.compile``; needs a C++ compiler.
        feature_cache: Folder that keeps the features of images that come again, for prompts that
            are not trained (``cprfl`` or ``prompt_gradient`` false); null keeps none. Of the
            augmentations only flips and quarter turns come again: ``data.augment: dihedral``.
        feature_cache_limit: GiB that the folder may take.
        clean_scales: Views of the image without noise that join the denoiser's features as scales
            of their own: ``pixels``, the image through two convolutions that are trained,
            ``encoder``, the image encoder's maps.
        encoder_maps: Which of the image encoder's maps join, 0 being the finest; null takes all.
        enlarge: The image encoder sees the image this many times as high and wide. Objects of a
            few pixels, such as nuclei, then reach sizes that it was trained on.
        max_tokens: Longer reports are cut to this many tokens.
        reads_report: False takes every report for an empty one, to measure what reports are worth.
        cprfl: Prompt the denoiser; false leaves its plain time embedding.
        ltfr: Fuse with LTFR; false puts a standard cross-attention block in its place.
        prompt_gradient: Train the prompt through the denoiser; false keeps the prompt as it was
            drawn (``zero_init_prompt: false``), which needs no backward pass through the denoiser.
        prompt_injection: Where the prompt enters: ``embedding``, added to the time embedding (the
            paper), or ``scale_shift`` of every block's output.
        prompt_width: Shared width D of the prompt's attention.
        text_alignment: How LTFR brings report tokens to positions: ``tile`` (the paper) or
            ``attend``, see :class:`lcpdn_pl.models.lcpdn.fusion.LTFR`.
        report_places: Let LTFR know which places a report names, read from its side words, see
            :func:`lcpdn_pl.side_words.side_words`; nothing is changed where ``ltfr`` is false.
        zero_init_prompt: Start from the plain denoiser's features.
        width: Width h that every scale and the report are projected to.
        normalise: Normalise the projected features of an image over channels and positions, since
            H grows with their square. Has no parameters.
        head: How scales become logits: ``concat`` (the paper) or ``pyramid``, see
            :mod:`lcpdn_pl.models.lcpdn.head`.
        head_widths: Hidden channels of the ``concat`` head, from the first layer to the last, or of
            the ``pyramid``, from the finest level to the coarsest.

    Raises:
        WeightsError: If a backbone cannot be loaded.
        ConfigError: If blocks or steps are out of range, an encoder's map does not exist or does
            not suit ``enlarge``, features that change would be cached, or the prompt is to stay 0.
    """

    def __init__(
        self,
        image_encoder: str = "efficientnet-lite0",
        text_encoder: str = "minilm-l6",
        denoiser: str = "lcpdn-ddpm-small",
        denoiser_options: dict[str, Any] | None = None,
        blocks: Sequence[int] = (6, 8, 12, 16),
        steps: Sequence[int] = (50, 150, 250),
        noise_seed: NonNegativeInt = 0,
        step_batch: PositiveInt | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        feature_cache: str | None = None,
        feature_cache_limit: float = 20.0,
        clean_scales: Sequence[Literal["pixels", "encoder"]] = (),
        encoder_maps: Sequence[int] | None = None,
        enlarge: PositiveInt = 1,
        max_tokens: PositiveInt = 64,
        reads_report: bool = True,
        cprfl: bool = True,
        ltfr: bool = True,
        prompt_gradient: bool = True,
        prompt_injection: Literal["embedding", "scale_shift"] = "embedding",
        prompt_width: PositiveInt = 384,
        text_alignment: Literal["tile", "attend"] = "tile",
        report_places: bool = False,
        zero_init_prompt: bool = True,
        width: PositiveInt = 64,
        normalise: bool = True,
        head: Literal["concat", "pyramid"] = "concat",
        head_widths: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        if feature_cache and cprfl and prompt_gradient:
            raise ConfigError(
                f"feature_cache={feature_cache!r} keeps features that do not change, but the "
                "prompt is trained and changes them. Set cprfl or prompt_gradient to false, or "
                "leave feature_cache out."
            )
        if cprfl and zero_init_prompt and not prompt_gradient:
            raise ConfigError(
                "A prompt that starts at zero and is not trained prompts nothing. Set "
                "zero_init_prompt to false, to keep it as it is drawn, or cprfl to false."
            )
        unet, pretrained = create_denoiser(denoiser, denoiser_options)
        self.features = DiffusionFeatures(
            unet,
            blocks,
            steps,
            noise_seed=noise_seed,
            step_batch=step_batch,
            gradient_checkpointing=gradient_checkpointing,
            prompt_injection=prompt_injection,
            compile=compile,
            store=FeatureStore(feature_cache, feature_cache_limit) if feature_cache else None,
            name=denoiser,
            pretrained=pretrained,
        )
        self.text_encoder = create_text_encoder(text_encoder, max_tokens)
        self.reads_report = reads_report
        text_width = self.text_encoder.width
        self.clean_scales = tuple(clean_scales)
        self.encoder_maps: Sequence[int] = ()
        self.enlarge = enlarge
        encodes = cprfl or "encoder" in clean_scales
        self.image_encoder = create_image_encoder(image_encoder) if encodes else None
        self.prompt: TextVisionPrompt | None = None
        if self.image_encoder is not None and cprfl:
            self.prompt = TextVisionPrompt(
                text_width,
                self.image_encoder.width,
                prompt_width,
                self.features.prompt_channels,
                zero_init_prompt,
            ).requires_grad_(prompt_gradient)
        channels, strides = [*self.features.channels], [*self.features.strides]
        if "pixels" in clean_scales:
            channels.append(3)
            strides.append(1)
        if self.image_encoder is not None and "encoder" in clean_scales:
            widths = self.image_encoder.map_widths
            self.encoder_maps = range(len(widths)) if encoder_maps is None else encoder_maps
            if not set(self.encoder_maps) <= set(range(len(widths))):
                raise ConfigError(
                    f"encoder_maps={list(self.encoder_maps)} must be numbers of the image "
                    f"encoder's maps; {image_encoder} has maps 0 to {len(widths) - 1}."
                )
            channels += [widths[index] for index in self.encoder_maps]
            if enlarge > 1 and self.image_encoder.size is not None:
                raise ConfigError(
                    f"enlarge={enlarge} does nothing for {image_encoder}, which brings every image "
                    f"to {self.image_encoder.size[0]} x {self.image_encoder.size[1]}: set it to 1."
                )
            steps_apart = [self.image_encoder.map_strides[index] for index in self.encoder_maps]
            if any(stride % enlarge for stride in steps_apart):
                raise ConfigError(
                    f"enlarge={enlarge} would put positions of the image encoder's maps between "
                    f"pixels: expected a divisor of their strides {steps_apart}. Leave the finest "
                    "ones out with encoder_maps, or enlarge less."
                )
            strides += [stride // enlarge for stride in steps_apart]
        self.project_image = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        if "pixels" in clean_scales:
            # A colour alone says little; what is frozen has seen each position's surroundings.
            self.project_image[len(self.features.channels)] = nn.Sequential(
                InstanceConvPair(3, width), nn.Conv2d(width, width, 1)
            )
        self.project_text = nn.ModuleList(nn.Linear(text_width, width) for _ in channels)
        self.norm = nn.GroupNorm(1, width, affine=False) if normalise else nn.Identity()
        self.report_places = report_places and ltfr
        self.fusion: nn.Module = (
            LTFR(width, text_alignment, report_places) if ltfr else CrossAttention(width)
        )
        self.head: nn.Module = (
            PyramidHead(width, strides, head_widths)
            if head == "pyramid"
            else ConcatHead(width, len(channels), head_widths)
        )

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        if not self.reads_report:
            text = [""] * len(text)
        report, valid = self.text_encoder(text)
        prompt = None
        clean = [image] if "pixels" in self.clean_scales else []
        if self.image_encoder is not None:
            with torch.no_grad():
                tokens, maps = self.image_encoder.encode(self._enlarged(image))
            if self.prompt is not None:
                prompt = self.prompt(report, valid, tokens)
            if "encoder" in self.clean_scales:
                clean += [maps[index] for index in self.encoder_maps]
        features = self.features(image, prompt)
        self._check_gradient(features)
        scales = [*features, *clean]
        places = [named_places(text)] if self.report_places else []
        fused = [
            self.fusion(self.norm(project_image(scale)), project_text(report), valid, *places)
            for scale, project_image, project_text in zip(
                scales, self.project_image, self.project_text, strict=True
            )
        ]
        logits: Tensor = self.head(fused, image.shape[-2:])
        return logits

    def _check_gradient(self, features: Sequence[Tensor]) -> None:
        """Refuses to train a prompt that learns nothing, which no loss or score would show."""
        if self.prompt is None or not torch.is_grad_enabled():
            return
        trained = any(parameter.requires_grad for parameter in self.prompt.parameters())
        if trained and not all(feature.requires_grad for feature in features):
            raise RunError(
                "LCPDN's prompt is to be trained, but no gradient reaches it: expected features of "
                "the denoiser that lead back to the prompt, found features without a gradient. "
                "Remove the torch.no_grad() or detach() between the two, or leave the prompt as it "
                "is: --model.network.prompt_gradient false."
            )

    def _enlarged(self, image: Tensor) -> Tensor:
        if self.enlarge == 1:
            return image
        return F.interpolate(image, scale_factor=self.enlarge, mode="bicubic").clamp(-1, 1)
