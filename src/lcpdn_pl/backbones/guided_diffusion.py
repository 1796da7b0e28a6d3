"""Reads OpenAI guided-diffusion checkpoints into the same network of diffusers.

Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch import Tensor

from lcpdn_pl.backbones.weights import reason
from lcpdn_pl.errors import ConfigError, LCPDNError, WeightsError
from lcpdn_pl.tensors import read_tensors

# The options that shape the network, as the public scripts call them, each with a valid value.
_OPTIONS: Mapping[str, object] = {
    "image_size": 256,
    "num_channels": 256,
    "num_res_blocks": 2,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "attention_resolutions": (32, 16, 8),
    "learn_sigma": True,
    "class_cond": False,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "num_head_channels": 64,
    "num_heads": 4,
    "use_new_attention_order": False,
}
# Modules of diffusers and their names in guided-diffusion: of the whole network, then in a block.
_STEM = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_INNER = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}


@dataclass(frozen=True)
class _Layout:
    """What the shapes of a state dict tell; widths and attention are those of each level."""

    in_channels: int
    out_channels: int
    num_classes: int | None
    num_channels: int
    num_res_blocks: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    resblock_updown: bool
    use_scale_shift_norm: bool

    def options(self, image_size: int | None) -> dict[str, object]:
        """The same in guided-diffusion's options, as far as the shapes decide them."""
        options: dict[str, object] = {
            "num_channels": self.num_channels,
            "num_res_blocks": self.num_res_blocks,
            "channel_mult": tuple(width / self.num_channels for width in self.widths),
            "learn_sigma": self.out_channels == 2 * self.in_channels,
            "class_cond": self.num_classes is not None,
            "use_scale_shift_norm": self.use_scale_shift_norm,
        }
        if len(self.widths) > 1:
            options["resblock_updown"] = self.resblock_updown
        if image_size is not None:
            options["attention_resolutions"] = tuple(
                image_size // 2**level for level, has in enumerate(self.attention) if has
            )
        return options


def read_guided_diffusion(
    path: str | Path, stated: Mapping[str, object] | None = None
) -> UNet2DModel:
    """Reads a state dict of guided-diffusion's ``UNetModel``.

    The architecture is inferred from the shapes. No shape tells the attention heads: unless they
    are stated, they are 64 channels wide, in the legacy order, as in most public models.

    Args:
        path: ``*.pt`` (never unpickles code) or ``*.safetensors``.
        stated: What is known of the network, in options of the public scripts: ``image_size``,
            ``num_channels``, ``num_res_blocks``, ``channel_mult`` (``"1,1,2"`` or numbers),
            ``attention_resolutions`` (alike; needs ``image_size``), ``learn_sigma``,
            ``class_cond``, ``resblock_updown``, ``use_scale_shift_norm``, ``num_head_channels``
            (goes before ``num_heads`` unless it is -1), ``num_heads`` and
            ``use_new_attention_order``. Whatever the shapes tell is checked against them.

    Returns:
        The same network, which gives the same outputs.

    Raises:
        ConfigError: If an option is unknown or its value is not of its kind.
        WeightsError: If the file is missing or unreadable; holds no such network, or one that
            ``UNet2DModel`` cannot express (``channel_mult`` that does not begin with 1, heads of
            several widths); differs from what is stated; or has missing or surplus keys or other
            shapes. All differences are listed.
    """
    path = Path(path)
    options = _parsed(stated or {})
    state = _read(path)
    try:
        layout = _infer(state)
        _check(path, layout.options(options.get("image_size")), options)
        with torch.device("meta"):  # no memory is spent on shapes that may be anything
            unet = UNet2DModel.from_config(_config(path, layout, options))
    except LCPDNError:
        raise
    except Exception as error:  # whatever other keys and shapes lead to
        raise WeightsError(
            f"{path} holds no UNet of guided-diffusion with convolutions or residual blocks that "
            f"resample (stopped at {error}); give a checkpoint such as 256x256_diffusion_uncond.pt."
        ) from error
    _load(unet, path, state, layout, options.get("use_new_attention_order", False))
    return unet


def _parsed(stated: Mapping[str, object]) -> dict[str, Any]:
    unknown = sorted(stated.keys() - _OPTIONS.keys())
    if unknown:
        raise ConfigError(
            f"Unknown guided-diffusion options: {', '.join(unknown)}; known are "
            f"{', '.join(_OPTIONS)}."
        )
    options: dict[str, Any] = {}
    for name, value in stated.items():
        example = _OPTIONS[name]
        options[name] = _numbers(value) if isinstance(example, tuple) else value
        # guided-diffusion writes -1 for head channels that are not set.
        positive = type(value) is not int or value > 0 or (name, value) == ("num_head_channels", -1)
        if type(options[name]) is not type(example) or not positive:
            raise ConfigError(f"{name}={value!r} is not valid; state it like {name}={example!r}.")
    if "attention_resolutions" in options:
        if "image_size" not in options:
            raise ConfigError("attention_resolutions are pixels of an image: state image_size too.")
        # As the levels come, whose resolutions they are compared with.
        options["attention_resolutions"] = tuple(
            sorted(options["attention_resolutions"], reverse=True)
        )
    return options


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Numbers from a sequence or from text such as "1,1,2"."""
    try:
        return tuple(map(float, value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        return None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"Diffusion checkpoint {path} does not exist; download it from the guided-diffusion "
            "repository (openai/guided-diffusion, README) and give its path."
        )
    try:
        state = load_file(path) if path.suffix == ".safetensors" else read_tensors(path)
    except Exception as error:  # the unpickler raises what torn bytes lead it to
        raise WeightsError(
            f"{path} is not a readable state dict: {reason(error)}. Download it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(part, Tensor) for part in state.values()):
        raise WeightsError(
            f"{path} is not a state dict: expected tensors by their names, found "
            f"{type(state).__name__} of something else; save model.state_dict() alone."
        )
    return state


def _infer(state: Mapping[str, Tensor]) -> _Layout:
    num_blocks = len({key.split(".")[1] for key in state if key.startswith("output_blocks.")})
    if not num_blocks:
        raise KeyError("output_blocks")
    resampling = [
        (block, inner)
        for block in range(num_blocks)
        for part in (1, 2)
        for inner in ("in_layers.2", "conv")
        if f"output_blocks.{block}.{part}.{inner}.weight" in state
    ]
    # The first block that upsamples ends its level; where none does, there is one level.
    last, inner = resampling[0] if resampling else (num_blocks - 1, "conv")
    starts = [f"input_blocks.{start}" for start in range(1, num_blocks, last + 1)]
    widths = [state[f"{start}.0.in_layers.2.weight"].shape[0] for start in starts]
    conditioning = state[f"{starts[0]}.0.emb_layers.1.weight"].shape[0]
    return _Layout(
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        num_classes=state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None,
        num_channels=state["time_embed.0.weight"].shape[1],
        num_res_blocks=last,
        widths=tuple(widths),
        attention=tuple(f"{start}.1.qkv.weight" in state for start in starts),
        resblock_updown=inner == "in_layers.2",
        use_scale_shift_norm=conditioning == 2 * widths[0],
    )


def _check(path: Path, found: Mapping[str, object], stated: Mapping[str, object]) -> None:
    lines = [
        f"  {name}: the file has {_shown(value)}, you stated {_shown(stated[name])}"
        for name, value in found.items()
        if stated.get(name, value) != value
    ]
    if lines:
        listed = "\n".join(lines)
        raise WeightsError(
            f"{path} holds another UNet than you stated:\n{listed}\n"
            "Correct or leave out these options, or give another file."
        )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value) or "none"
    return str(value)


def _config(path: Path, layout: _Layout, options: Mapping[str, Any]) -> dict[str, object]:
    """Configuration of the UNet2DModel; its defaults are guided-diffusion's where none is given."""
    if layout.widths[0] != layout.num_channels:
        raise WeightsError(
            f"{path} embeds time in {layout.num_channels} channels, but its first level has "
            f"{layout.widths[0]}; UNet2DModel has one number for both. Give a checkpoint whose "
            "channel_mult begins with 1."
        )
    if layout.resblock_updown:
        kind, down, up = "resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    else:
        kind, down, up = "conv", "DownBlock2D", "UpBlock2D"
    return {
        "sample_size": options.get("image_size"),
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "block_out_channels": layout.widths,
        "layers_per_block": layout.num_res_blocks,
        "down_block_types": ["AttnDownBlock2D" if has else down for has in layout.attention],
        "up_block_types": ["AttnUpBlock2D" if has else up for has in reversed(layout.attention)],
        "downsample_type": kind,
        "upsample_type": kind,
        "resnet_time_scale_shift": "scale_shift" if layout.use_scale_shift_norm else "default",
        "attention_head_dim": _head_width(path, layout, options),
        # Without it scale_shift leaves out the norm before the middle attention.
        "attn_norm_num_groups": 32,
        "num_class_embeds": layout.num_classes,
    }


def _head_width(path: Path, layout: _Layout, options: Mapping[str, Any]) -> int:
    # The middle block, as wide as the last level, always has attention.
    widths = {width for width, has in zip(layout.widths, layout.attention, strict=True) if has}
    widths.add(layout.widths[-1])
    head_widths = {options.get("num_head_channels", -1)}
    if head_widths == {-1}:
        heads = options.get("num_heads")
        head_widths = {width / heads for width in widths} if heads else {64}
    head_width = int(min(head_widths))
    if head_widths != {head_width} or any(width % head_width for width in widths):
        raise WeightsError(
            f"{path} has attention of {_shown(tuple(sorted(widths)))} channels, which cannot be "
            f"heads of {_shown(tuple(sorted(head_widths)))} channels: UNet2DModel has one width of "
            "head, which divides them all. State num_head_channels or num_heads as in training; "
            "one num_heads for attention of several widths cannot be read."
        )
    return head_width


def _file_key(key: str, layout: _Layout) -> str:
    """guided-diffusion's name of the parameter that diffusers calls ``key``."""
    per_level = layout.num_res_blocks + 1
    match key.split("."):
        case ["down_blocks", level, "downsamplers", _, *inner, leaf]:
            place = f"input_blocks.{(int(level) + 1) * per_level}.0"
            inner = ["op"] if inner == ["conv"] else inner
        case ["down_blocks", level, kind, index, *inner, leaf]:
            block = 1 + int(level) * per_level + int(index)
            place = f"input_blocks.{block}.{int(kind == 'attentions')}"
        case ["mid_block", kind, index, *inner, leaf]:
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
        case ["up_blocks", level, "upsamplers", _, *inner, leaf]:
            # It comes last in the last block of its level, after attention if there is any.
            has_attention = layout.attention[-1 - int(level)]
            place = f"output_blocks.{(int(level) + 1) * per_level - 1}.{1 + has_attention}"
        case ["up_blocks", level, kind, index, *inner, leaf]:
            block = int(level) * per_level + int(index)
            place = f"output_blocks.{block}.{int(kind == 'attentions')}"
        case [*stem, leaf]:
            return f"{_STEM['.'.join(stem)]}.{leaf}"
    name = ".".join(inner)
    return f"{place}.{_INNER.get(name, name)}.{leaf}"


def _file_shape(file_key: str, shape: torch.Size) -> tuple[int, ...]:
    """Attention is convolutions in the file, q, k and v in one, but linear layers in diffusers."""
    rows = shape[0] * (3 if ".qkv." in file_key else 1)
    convolved = file_key.endswith((".qkv.weight", ".proj_out.weight"))
    return (rows, *shape[1:], *([1] if convolved else []))


def _load(
    unet: UNet2DModel, path: Path, state: Mapping[str, Tensor], layout: _Layout, new_order: bool
) -> None:
    own = unet.state_dict()
    names = {key: _file_key(key, layout) for key in own}
    expected = {names[key]: _file_shape(names[key], value.shape) for key, value in own.items()}
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "surplus": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key}: expected {expected[key]}, found {tuple(state[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if expected[key] != tuple(state[key].shape)
        ],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in wrong.items() if keys)
        raise WeightsError(
            f"{path} does not fit the UNet that its shapes describe; give a whole state dict of "
            f"guided-diffusion's UNetModel. {listed[0].upper()}{listed[1:]}."
        )

    loaded = {}
    for key, like in own.items():
        value = state[names[key]]
        if ".qkv." in names[key]:
            index = ("to_q", "to_k", "to_v").index(key.split(".")[-2])
            heads = len(like) // unet.config.attention_head_dim
            # The new order is q, k and v, each of all heads; the legacy one goes head by head.
            if new_order:
                value = value.unflatten(0, (3, heads, -1))[index]
            else:
                value = value.unflatten(0, (heads, 3, -1))[:, index]
        loaded[key] = value.reshape(like.shape).float()
    unet.load_state_dict(loaded, assign=True)
