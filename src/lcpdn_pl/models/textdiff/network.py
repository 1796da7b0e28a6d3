"""TextDiff: text-guided diffusion features."""

from collections.abc import Sequence
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import DiffusionFeatures
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.models.base import Network
from lcpdn_pl.models.textdiff.fusion import TextDiffHead


class TextDiff(Network):
    """TextDiff (Feng, MICCAI 2024): a frozen denoiser's features, fused with the report.

    The features are those of LCPDN without a prompt; no gradient passes the denoiser. Two
    cross-attentions and a linear layer, the same for all scales, fuse them with the report tokens;
    the scales are upsampled, concatenated and classified pixel by pixel.

    The defaults are the embedded backbones, which need no download; the paper's are
    Bio_ClinicalBERT and guided-diffusion's ``256x256_diffusion_uncond.pt``.

    Args:
        text_encoder: See :func:`lcpdn_pl.backbones.text.create_text_encoder`.
        denoiser: See :func:`lcpdn_pl.backbones.denoisers.create_denoiser`.
        denoiser_options: Options of a guided-diffusion checkpoint, as its scripts call them.
        blocks: Decoder blocks of the denoiser whose outputs are the features.
        steps: Timesteps at which the image is noised.
        noise_seed: Seed of the one noise that all images and steps share.
        step_batch: Timesteps that run in one batch; null runs all of them together.
        feature_cache: Folder that keeps the features of images that come again; null keeps none.
            Of the augmentations only flips and quarter turns come again: ``data.augment:
            dihedral``.
        feature_cache_limit: GiB that the folder may take.
        max_tokens: Longer reports are cut to this many tokens, [CLS] and [SEP] included; shorter
            ones are padded to it with zeros, which are attended to like tokens.
        width: Width that every scale is brought to.
        head_widths: Hidden channels of the pixel classifier.

    Raises:
        WeightsError: If a backbone cannot be loaded.
        ConfigError: If blocks or steps are out of range; in ``forward``, if the image's sides do
            not suit the denoiser.
    """

    def __init__(
        self,
        text_encoder: str = "minilm-l6",
        denoiser: str = "lcpdn-ddpm-small",
        denoiser_options: dict[str, Any] | None = None,
        blocks: Sequence[int] = (6, 8, 12, 16),
        steps: Sequence[int] = (50, 150, 250),
        noise_seed: NonNegativeInt = 0,
        step_batch: PositiveInt | None = None,
        feature_cache: str | None = None,
        feature_cache_limit: float = 20.0,
        max_tokens: PositiveInt = 10,
        width: PositiveInt = 768,
        head_widths: tuple[PositiveInt, PositiveInt] = (128, 32),
    ) -> None:
        super().__init__()
        unet, pretrained = create_denoiser(denoiser, denoiser_options)
        self.features = DiffusionFeatures(
            unet,
            blocks,
            steps,
            noise_seed=noise_seed,
            step_batch=step_batch,
            store=FeatureStore(feature_cache, feature_cache_limit) if feature_cache else None,
            name=denoiser,
            pretrained=pretrained,
        )
        self.text_encoder = create_text_encoder(text_encoder, max_tokens)
        self.head = TextDiffHead(
            self.features.channels, self.text_encoder.width, width, head_widths
        )

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        """See :meth:`lcpdn_pl.models.base.Network.forward`."""
        report, _ = self.text_encoder(text)
        # A zero adds nothing to what attention gathers, but takes its share of the softmax.
        report = F.pad(report, (0, 0, 0, self.text_encoder.max_tokens - report.shape[1]))
        logits: Tensor = self.head(self.features(image), report, image.shape[-2:])
        return logits
