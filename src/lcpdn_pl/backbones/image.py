"""Frozen image encoders: an image becomes tokens that the prompt attends to."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import open_clip
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones import weights
from lcpdn_pl.backbones.base import FrozenBackbone
from lcpdn_pl.backbones.catalogue import elsewhere, embedded, local_copy
from lcpdn_pl.errors import WeightsError
from lcpdn_pl.tensors import refuse_inflating


class ImageEncoder(FrozenBackbone):
    """Turns an image into tokens and feature maps.

    Attributes:
        width: Width of a token, D_I.
        map_widths: Channels of each feature map.
        map_strides: Pixels of the image that a position of each feature map stands for, about so
            where the encoder sees images at a size of its own.
        size: That size, height and width; ``None`` where it takes images as they are.
    """

    size: tuple[int, int] | None = None
    width: int
    map_widths: Sequence[int]
    map_strides: Sequence[int]

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, M, D_I] of a batch of images; see :meth:`encode`."""
        return self.encode(image)[0]

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes a batch of images.

        Args:
            image: [B, 3, H, W] in [-1, 1]; the encoder normalises for itself.

        Returns:
            Tokens [B, M, D_I], and feature maps [B, C_k, H_k, W_k] from fine to coarse.
        """


class EfficientNetTokens(ImageEncoder):
    """EfficientNet-Lite0: maps at strides 2 to 32, and one token a position of the last.

    Tan and Le, "EfficientNet", ICML 2019; the Lite variant is Google's, without
    squeeze-and-excitation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("tf_efficientnet_lite0", features_only=True)
        self.map_widths = self.net.feature_info.channels()
        self.map_strides = self.net.feature_info.reduction()
        self.width = self.map_widths[-1]
        self.net.load_state_dict(weights.efficientnet_lite0(self.net.state_dict()))
        self.freeze("efficientnet-lite0", pretrained=True)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See :meth:`ImageEncoder.encode`; five maps, at strides 2, 4, 8, 16 and 32.

        M = (H / 32) * (W / 32).
        """
        self.eval()
        # The weights expect (x - 127) / 128 of 0..255, and image is (x - 127.5) / 127.5.
        maps: list[Tensor] = self.net((image * 127.5 + 0.5) / 128)
        return maps[-1].flatten(2).transpose(1, 2), maps


class OpenClipTokens(ImageEncoder):
    """The vision transformer of an OpenCLIP model: class token and patch tokens.

    Radford et al., "Learning transferable visual models from natural language supervision",
    ICML 2021. Images are resized to the size that the model was trained at.

    Args:
        architecture: OpenCLIP model name, e.g. ``ViT-B-16``.
        checkpoint: Pretrained tag, e.g. ``openai``, or path of a weights file.
        file: A local copy of the tag's weights.

    Raises:
        WeightsError: If the model is unknown, has no patch tokens, or cannot be fetched.
    """

    def __init__(self, architecture: str, checkpoint: str, file: Path | None = None) -> None:
        super().__init__()
        # The tag decides the activation too, of which a file says nothing.
        tag = open_clip.get_pretrained_cfg(architecture, checkpoint) or {}
        name = f"open_clip/{architecture}/{checkpoint}"
        source = Path(file or checkpoint)
        try:
            if source.is_file():
                refuse_inflating(source)
            model = open_clip.create_model(
                architecture,
                pretrained=str(source) if file else checkpoint,
                force_quick_gelu=tag.get("quick_gelu", False),
            )
        except Exception as error:  # what OpenCLIP raises depends on what is wrong with a file
            raise WeightsError(
                f"OpenCLIP could not load {architecture!r} with weights {checkpoint!r}: "
                f"{weights.reason(error)}. "
                "Give a known architecture and tag or the path of a weights file. "
                f"{elsewhere(name)}"
            ) from error
        visual = model.visual
        if not hasattr(visual, "class_embedding"):
            raise WeightsError(
                f"OpenCLIP model {architecture!r} is no vision transformer with patch tokens; "
                "use one such as ViT-B-16."
            )
        self.visual: nn.Module = visual
        self.size = tuple(visual.image_size)
        self.width = visual.class_embedding.shape[0]
        self.map_widths = [self.width]
        self.map_strides = [visual.patch_size[0]]
        for statistic in ("mean", "std"):
            value = torch.tensor(getattr(visual, f"image_{statistic}")).view(1, 3, 1, 1)
            self.register_buffer(statistic, value, persistent=False)
        self.freeze(name, pretrained=True)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See :meth:`ImageEncoder.encode`; the class token comes first, and the map has none."""
        self.eval()
        image = F.interpolate(
            image, self.size, mode="bicubic", align_corners=False, antialias=True
        ).clamp(-1, 1)
        image = ((image + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        features = self.visual.forward_intermediates(  # type: ignore[operator]
            image,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NCHW",
            output_extra_tokens=True,
        )
        patches = features["image_intermediates"][-1]
        class_token = features["image_intermediates_prefix"][-1]
        return torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1), [patches]


def create_image_encoder(name: str) -> ImageEncoder:
    """Creates a frozen image encoder.

    Args:
        name: ``efficientnet-lite0`` (embedded), or ``open_clip/ARCHITECTURE/CHECKPOINT``, where
            CHECKPOINT is a pretrained tag or the path of a weights file.

    Raises:
        WeightsError: If the name is of neither form, or its weights cannot be loaded.
    """
    if name == "efficientnet-lite0":
        embedded(name)
        return EfficientNetTokens()
    match name.split("/", 2):
        case ["open_clip", architecture, checkpoint]:
            return OpenClipTokens(architecture, checkpoint, local_copy(name))
    raise WeightsError(
        f"Unknown image encoder {name!r}; expected 'efficientnet-lite0' or "
        "'open_clip/ARCHITECTURE/CHECKPOINT', e.g. 'open_clip/ViT-B-16/openai'."
    )
