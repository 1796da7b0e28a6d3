"""Denoisers by name: the small one of this package, diffusers folders, guided-diffusion files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from lcpdn_pl.backbones import weights
from lcpdn_pl.backbones.catalogue import CATALOGUE, elsewhere, embedded, local_copy
from lcpdn_pl.backbones.guided_diffusion import read_guided_diffusion
from lcpdn_pl.errors import WeightsError

SMALL = "lcpdn-ddpm-small"
_MOST_LAYERS = 32


def create_denoiser(
    name: str, stated: Mapping[str, object] | None = None, random_seed: int = 0
) -> tuple[UNet2DModel, bool]:
    """Creates a denoiser.

    Args:
        name: ``lcpdn-ddpm-small``, which comes with this package; the folder of a diffusers
            ``UNet2DModel``; a guided-diffusion checkpoint, ``*.pt`` or ``*.safetensors``; or, for
            random weights, ``lcpdn-ddpm-small:random`` or the ``*.json`` configuration of a
            ``UNet2DModel``.
        stated: What is known of a guided-diffusion checkpoint, see :func:`read_guided_diffusion`.
        random_seed: Seed of random weights.

    Returns:
        The denoiser, and whether its weights are pretrained.

    Raises:
        WeightsError: If the name is of no such form or the weights do not load.
    """
    if name == SMALL:
        name = str(embedded(SMALL).parent)
    path = weights.DDPM_SMALL / "config.json" if name == f"{SMALL}:random" else Path(name)
    if not path.exists():
        path = local_copy(name) or path
    if path.suffix == ".json" and path.is_file():
        try:
            return weights.random_unet(_config(path), random_seed), False
        except Exception as error:  # what diffusers raises depends on what is wrong with a file
            raise WeightsError(
                f"{path}: expected the configuration of a diffusers UNet2DModel, found one that "
                f"builds none ({weights.reason(error)}). Save it anew with save_config."
            ) from error
    if path.is_dir():
        try:
            _config(path / "config.json")
            unet, loading = UNet2DModel.from_pretrained(
                path,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
            weights.refuse_gaps(loading, surplus=True)
        except Exception as error:  # as above
            raise WeightsError(
                f"{path}: expected the folder of a diffusers UNet2DModel, found another one "
                f"({weights.reason(error)}). Save it anew with save_pretrained."
            ) from error
        return unet, True
    if path.suffix in {".pt", ".safetensors"}:
        if name in CATALOGUE and not path.is_file():
            raise WeightsError(f"{name} does not exist and was not fetched. {elsewhere(name)}")
        return read_guided_diffusion(path, stated), True
    raise WeightsError(
        f"Unknown denoiser {name!r}; expected '{SMALL}', '{SMALL}:random', the folder or .json "
        "configuration of a diffusers UNet2DModel, or a guided-diffusion checkpoint (.pt or "
        ".safetensors)."
    )


def _config(path: Path) -> dict[str, Any]:
    """The configuration of a UNet2DModel.

    Raises:
        ValueError: If it is of more layers or channels than could be built in a sensible time.
    """

    def size(digits: str) -> int:
        if len(digits) > 4:
            raise ValueError(f"{digits[:20]} is no number of layers or channels")
        return int(digits)

    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_int=size)
    if config.get("layers_per_block", 0) > _MOST_LAYERS:
        raise ValueError(
            f"{config['layers_per_block']} layers per block, of at most {_MOST_LAYERS}"
        )
    return config
