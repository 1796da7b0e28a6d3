"""Reads OpenAI guided-diffusion checkpoints into the same network of diffusers.

Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lcpdn_pl.errors import WeightsError

AttentionOrder = Literal["legacy", "new"]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
_STEM = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def read_guided_diffusion(
    path: str | Path,
    num_head_channels: int = 64,
    attention_order: AttentionOrder = "legacy",
) -> UNet2DModel:
    """Reads a guided-diffusion state dict; the architecture is inferred from its shapes.

    Args:
        path: ``*.pt`` (never unpickles code) or ``*.safetensors``.
        num_head_channels: Width of an attention head, which no shape tells; 64 in the public
            models.
        attention_order: Layout of ``qkv``: ``legacy`` interleaves q, k and v per head, ``new``
            (the public option ``use_new_attention_order``) puts the heads inside q, k and v.

    Returns:
        The same network, which gives the same outputs.

    Raises:
        WeightsError: If the file is missing or unreadable, its architecture is not one of a
            scale-shift UNet with resampling residual blocks, or keys are missing, surplus or of
            another shape (all are listed).
    """
    path = Path(path)
    state = _read(path)
    try:
        config = _infer_config(state, num_head_channels)
    except (KeyError, StopIteration, ZeroDivisionError) as error:
        raise WeightsError(
            f"{path} is no unconditional guided-diffusion UNet with resampling residual blocks "
            f"(stopped at {error}); give a checkpoint such as 256x256_diffusion_uncond.pt."
        ) from error
    unet = UNet2DModel.from_config(config)
    _load(unet, dict(_renamed(state, config, attention_order)), path)
    return unet


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"Diffusion checkpoint {path} does not exist; download it from the guided-diffusion "
            "repository (openai/guided-diffusion, README) and give its path."
        )
    try:
        state: dict[str, Tensor]
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(
            f"{path} is not a readable state dict: {error}. Download it again; files that need "
            "code to be unpickled are refused."
        ) from error
    return state


def _infer_config(state: Mapping[str, Tensor], num_head_channels: int) -> dict[str, object]:
    if "label_emb.weight" in state:
        raise KeyError("label_emb.weight")
    num_blocks = len({key.split(".")[1] for key in state if key.startswith("output_blocks.")})
    # The first block that ends in a second residual block ends its level.
    last = next(
        index
        for index in range(num_blocks)
        for part in (1, 2)
        if f"output_blocks.{index}.{part}.in_layers.0.weight" in state
    )
    layers, levels = last, num_blocks // (last + 1)
    ends = [level * (layers + 1) + layers for level in range(levels)]
    attention = [f"input_blocks.{end}.1.qkv.weight" in state for end in ends]
    down = ["AttnDownBlock2D" if has else "ResnetDownsampleBlock2D" for has in attention]
    up = ["AttnUpBlock2D" if has else "ResnetUpsampleBlock2D" for has in reversed(attention)]
    return {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "block_out_channels": [
            state[f"input_blocks.{end}.0.out_layers.3.weight"].shape[0] for end in ends
        ],
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "resnet_time_scale_shift": "scale_shift",
        "upsample_type": "resnet",
        "downsample_type": "resnet",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "attention_head_dim": num_head_channels,
        # Without it diffusers leaves out the norm before the middle attention.
        "attn_norm_num_groups": 32,
        "add_attention": "middle_block.1.qkv.weight" in state,
    }


def _renamed(
    state: Mapping[str, Tensor], config: Mapping[str, object], order: AttentionOrder
) -> Iterator[tuple[str, Tensor]]:
    """The entries under diffusers' names; unknown ones keep their own and are reported later."""
    per_level = int(str(config["layers_per_block"])) + 1
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module in _STEM:
            yield f"{_STEM[module]}.{kind}", value
            continue
        place, inner = _place(module, per_level)
        if inner == "qkv":
            heads = value.shape[0] // 3 // int(str(config["attention_head_dim"]))
            # Diffusers applies linear layers where guided-diffusion has 1x1 convolutions.
            value = value.reshape(value.shape[0], *value.shape[1:2])
            if order == "legacy":
                value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
            for name, part in zip("qkv", value.chunk(3), strict=True):
                yield f"{place}.to_{name}.{kind}", part
        elif inner in _ATTENTION:
            yield f"{place}.{_ATTENTION[inner]}.{kind}", value.squeeze(-1)
        else:
            yield f"{place}.{_RESNET.get(inner, inner)}.{kind}", value


def _place(module: str, per_level: int) -> tuple[str, str]:
    """Splits a module's name into its place in diffusers' network and its name there."""
    match module.split("."):
        case ["input_blocks", block, part, *inner] if int(block) > 0:
            level, index = divmod(int(block) - 1, per_level)
            names = {"0": f"resnets.{index}", "1": f"attentions.{index}"}
            if index == per_level - 1:
                names = {"0": "downsamplers.0"}
            return f"down_blocks.{level}.{names.get(part, part)}", ".".join(inner)
        case ["middle_block", part, *inner]:
            names = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
            return f"mid_block.{names.get(part, part)}", ".".join(inner)
        case ["output_blocks", block, part, *inner]:
            level, index = divmod(int(block), per_level)
            name = ".".join(inner)
            if part == "0":
                return f"up_blocks.{level}.resnets.{index}", name
            if name in _RESNET:
                return f"up_blocks.{level}.upsamplers.0", name
            return f"up_blocks.{level}.attentions.{index}", name
    return "", module


def _load(unet: UNet2DModel, state: Mapping[str, Tensor], path: Path) -> None:
    expected = unet.state_dict()
    shapes = [
        f"{key}: expected {tuple(expected[key].shape)}, found {tuple(state[key].shape)}"
        for key in expected.keys() & state.keys()
        if expected[key].shape != state[key].shape
    ]
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "surplus": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(shapes),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in wrong.items() if keys)
        raise WeightsError(f"{path} does not fit the UNet that its shapes describe. {listed}.")
    unet.load_state_dict(state)
