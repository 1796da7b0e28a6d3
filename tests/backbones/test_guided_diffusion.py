"""Reading guided-diffusion checkpoints, against a plain forward pass and the public code's."""

import copy
import math
import pickle
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.backbones.diffusion import DiffusionFeatures
from lcpdn_pl.backbones.guided_diffusion import read_guided_diffusion
from lcpdn_pl.errors import ConfigError, WeightsError

NUM_CLASSES, IN_CHANNELS, SIZE, BATCH = 5, 3, 16, 2
SMALL: Mapping[str, Any] = {
    "image_size": SIZE,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": (8,),
    "learn_sigma": True,
    "class_cond": False,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "num_head_channels": 16,
    "use_new_attention_order": False,
}


def reference(
    state: dict[str, Tensor], options: Mapping[str, Any], x: Tensor, t: Tensor, y: Tensor
) -> Tensor:
    """guided-diffusion's forward pass; weights that ``state`` lacks are drawn and put there."""

    def get(name: str, *shape: int) -> Tensor:
        if name not in state:
            state[name] = 0.15 * torch.randn(shape)
        return state[name]

    def conv(name: str, x: Tensor, width: int, size: int = 3, stride: int = 1) -> Tensor:
        weight = get(f"{name}.weight", width, x.shape[1], size, size)
        return F.conv2d(x, weight, get(f"{name}.bias", width), stride, size // 2)

    def conv1(name: str, x: Tensor, width: int) -> Tensor:
        weight = get(f"{name}.weight", width, x.shape[1], 1)
        return F.conv1d(x, weight, get(f"{name}.bias", width))

    def linear(name: str, x: Tensor, width: int) -> Tensor:
        return F.linear(x, get(f"{name}.weight", width, x.shape[1]), get(f"{name}.bias", width))

    def norm(name: str, x: Tensor) -> Tensor:
        width = x.shape[1]
        weight = get(f"{name}.weight", width)
        return F.group_norm(x, 32, weight, get(f"{name}.bias", width), eps=1e-5)

    def residual(
        name: str, x: Tensor, width: int, resample: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        hidden = F.silu(norm(f"{name}.in_layers.0", x))
        if resample:
            hidden, x = resample(hidden), resample(x)
        hidden = conv(f"{name}.in_layers.2", hidden, width)
        scale_shift = options["use_scale_shift_norm"]
        shift = linear(f"{name}.emb_layers.1", F.silu(embedding), width * (1 + scale_shift))
        shift = shift[..., None, None]
        if scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            hidden = norm(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        else:
            hidden = norm(f"{name}.out_layers.0", hidden + shift)
        hidden = conv(f"{name}.out_layers.3", F.silu(hidden), width)
        return hidden + (x if x.shape[1] == width else conv(f"{name}.skip_connection", x, width, 1))

    def attention(name: str, x: Tensor) -> Tensor:
        width, heads = x.shape[1], x.shape[1] // options["num_head_channels"]
        qkv = conv1(f"{name}.qkv", norm(f"{name}.norm", x).flatten(2), 3 * width)
        if options["use_new_attention_order"]:
            q, k, v = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.unflatten(1, (heads, -1)).chunk(3, dim=2)
        scores = torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(width // heads)
        mixed = torch.einsum("bhts,bhcs->bhct", scores.softmax(dim=-1), v).flatten(1, 2)
        return x + conv1(f"{name}.proj_out", mixed, width).view_as(x)

    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    unit, updown = options["num_channels"], options["resblock_updown"]
    widths = [int(float(mult) * unit) for mult in options["channel_mult"].split(",")]
    has_attention = [
        SIZE // 2**level in options["attention_resolutions"] for level in range(len(widths))
    ]

    angle = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(unit // 2) / (unit // 2))
    embedding = linear("time_embed.0", torch.cat([angle.cos(), angle.sin()], dim=1), 4 * unit)
    embedding = linear("time_embed.2", F.silu(embedding), 4 * unit)
    if options["class_cond"]:
        embedding = embedding + get("label_emb.weight", NUM_CLASSES, 4 * unit)[y]

    out_channels = x.shape[1] * (1 + options["learn_sigma"])
    x = conv("input_blocks.0.0", x, widths[0])
    skips = [x]
    for level, width in enumerate(widths):
        for _ in range(options["num_res_blocks"]):
            x = residual(f"input_blocks.{len(skips)}.0", x, width)
            if has_attention[level]:
                x = attention(f"input_blocks.{len(skips)}.1", x)
            skips.append(x)
        if level < len(widths) - 1:
            name = f"input_blocks.{len(skips)}.0"
            if updown:
                x = residual(name, x, width, lambda x: F.avg_pool2d(x, 2))
            else:
                x = conv(f"{name}.op", x, width, stride=2)
            skips.append(x)
    x = residual("middle_block.0", x, widths[-1])
    x = residual("middle_block.2", attention("middle_block.1", x), widths[-1])
    num_blocks = len(skips)
    for level, width in reversed(list(enumerate(widths))):
        for index in range(options["num_res_blocks"] + 1):
            name = f"output_blocks.{num_blocks - len(skips)}"
            x = residual(f"{name}.0", torch.cat([x, skips.pop()], dim=1), width)
            if has_attention[level]:
                x = attention(f"{name}.1", x)
            if level and index == options["num_res_blocks"]:
                name = f"{name}.{1 + has_attention[level]}"
                if updown:
                    x = residual(name, x, width, double)
                else:
                    x = conv(f"{name}.conv", double(x), width)
    return conv("out.2", F.silu(norm("out.0", x)), out_channels)


def example(options: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[Tensor, ...], Tensor]:
    """A random state dict, inputs and the reference's output."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    inputs = (
        torch.randn(BATCH, IN_CHANNELS, SIZE, SIZE),
        torch.tensor([150, 700]),
        torch.tensor([1, 4]),
    )
    return state, inputs, reference(state, options, *inputs)


def run(unet: UNet2DModel, inputs: tuple[Tensor, ...]) -> Tensor:
    x, t, y = inputs
    with torch.no_grad():
        output: Tensor = unet.eval()(x, t, y if unet.class_embedding is not None else None).sample
    return output


def save(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


SHAPES: list[dict[str, Any]] = [
    {},
    {"channel_mult": "1", "num_res_blocks": 2, "attention_resolutions": (16,)},
    {"channel_mult": "1,1,2", "num_res_blocks": 2, "attention_resolutions": (4, 16)},
    {"channel_mult": "1,2,1", "num_res_blocks": 3, "attention_resolutions": ()},
    # Three heads at the last level, as many as there are of q, k and v.
    {"channel_mult": "1,3", "attention_resolutions": (16, 8), "num_head_channels": 32},
    {"num_channels": 64, "channel_mult": "1,1.5,2,1", "attention_resolutions": (8, 4)},
]


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_the_same_output(
    tmp_path: Path, shape: int, updown: bool, scale_shift: bool, new_order: bool
) -> None:
    rng = random.Random(f"{shape} {updown} {scale_shift} {new_order}")
    options = {
        **SMALL,
        **SHAPES[shape],
        "resblock_updown": updown,
        "use_scale_shift_norm": scale_shift,
        "use_new_attention_order": new_order,
        "learn_sigma": rng.random() < 0.5,
        "class_cond": rng.random() < 0.5,
    }
    state, inputs, expected = example(options)
    path = save(state, tmp_path)
    output = run(read_guided_diffusion(path, options), inputs)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    untold = ("num_head_channels", "use_new_attention_order")
    unet = read_guided_diffusion(path, {name: options[name] for name in untold})
    torch.testing.assert_close(run(unet, inputs), output, atol=0, rtol=0)


def test_saved_by_diffusers_and_read_again(tmp_path: Path) -> None:
    state, inputs, _ = example({**SMALL, "class_cond": True, "resblock_updown": False})
    unet = read_guided_diffusion(save(state, tmp_path), {"num_head_channels": 16})
    unet.save_pretrained(tmp_path / "unet")
    again = UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    torch.testing.assert_close(run(again, inputs), run(unet, inputs), atol=0, rtol=0)


def test_differences_from_what_is_stated_are_all_listed(tmp_path: Path) -> None:
    path = save(example(SMALL)[0], tmp_path)
    stated = {
        "image_size": 32,
        "num_channels": 128,
        "num_res_blocks": 1,
        "channel_mult": [1, 2, 2],
        "attention_resolutions": "8,32",
        "learn_sigma": False,
        "class_cond": True,
        "resblock_updown": False,
        "use_scale_shift_norm": False,
    }
    with pytest.raises(WeightsError) as caught:
        read_guided_diffusion(path, stated)
    assert [line for line in str(caught.value).splitlines() if line.startswith("  ")] == [
        "  num_channels: the file has 32, you stated 128",
        "  channel_mult: the file has 1,2, you stated 1,2,2",
        "  learn_sigma: the file has True, you stated False",
        "  class_cond: the file has False, you stated True",
        "  use_scale_shift_norm: the file has True, you stated False",
        "  resblock_updown: the file has True, you stated False",
        "  attention_resolutions: the file has 16, you stated 32,8",
    ]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"channels": 3, "dropout": 0.1}, "options: channels, dropout; known are image_size, num_"),
        ({"num_channels": "64"}, "num_channels='64' is not valid; state it like num_channels=256"),
        ({"learn_sigma": 1}, "state it like learn_sigma=True"),
        ({"num_heads": 0}, "state it like num_heads=4"),
        ({"channel_mult": "one"}, r"state it like channel_mult=\(1, 1, 2, 2, 4, 4\)"),
        ({"channel_mult": (1, "x")}, r"state it like channel_mult=\(1, 1, 2, 2, 4, 4\)"),
        ({"channel_mult": [10**400]}, r"state it like channel_mult=\(1, 1, 2, 2, 4, 4\)"),
        ({"attention_resolutions": "8"}, "state image_size too"),
    ],
)
def test_invalid_options_are_refused(stated: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_guided_diffusion("any.pt", stated)


def test_heads(tmp_path: Path) -> None:
    state, inputs, expected = example(SMALL)
    path = save(state, tmp_path)
    unet = read_guided_diffusion(path, {"num_heads": 4, "num_head_channels": -1})
    torch.testing.assert_close(run(unet, inputs), expected, atol=1e-5, rtol=1e-5)
    for stated, found in [({"num_head_channels": 24}, "24"), ({"num_heads": 3}, "21.3333")]:
        with pytest.raises(WeightsError, match=rf"of 64 channels, .* heads of {found} channels"):
            read_guided_diffusion(path, stated)
    path = save(example({**SMALL, "attention_resolutions": (16,)})[0], tmp_path)
    with pytest.raises(WeightsError, match=r"of 32,64 channels, .* heads of 16,32 channels"):
        read_guided_diffusion(path, {"num_heads": 2})


def test_a_first_level_unlike_the_time_embedding_is_refused(tmp_path: Path) -> None:
    state = example({**SMALL, "num_channels": 64, "channel_mult": "0.5,1"})[0]
    with pytest.raises(WeightsError, match="time in 64 channels, but its first level has 32"):
        read_guided_diffusion(save(state, tmp_path), {"channel_mult": "0.5,1"})


def test_shapes_of_no_network_cost_no_memory(tmp_path: Path) -> None:
    state, _, _ = example(SMALL)
    flat = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}
    for width, message in ((33, "no UNet of guided-diffusion"), (32 * 10**6, "of another shape")):
        for name in ("input_blocks.1.0.in_layers.2.weight", "input_blocks.3.0.in_layers.2.weight"):
            flat[name] = torch.zeros(1).expand(width, 32, 3, 3)
        flat["time_embed.0.weight"] = torch.zeros(1).expand(128, width)
        torch.save(flat, tmp_path / "odd.pt")
        with pytest.raises(WeightsError, match=message):
            read_guided_diffusion(tmp_path / "odd.pt", {"num_head_channels": 1})


def test_wrong_keys_are_all_listed(tmp_path: Path) -> None:
    state = example(SMALL)[0]
    del state["time_embed.0.bias"], state["middle_block.1.qkv.weight"]
    state["stray.weight"] = torch.zeros(1)
    state["out.0.bias"] = torch.zeros(7)
    state["input_blocks.3.1.qkv.weight"] = torch.zeros(192, 64)
    with pytest.raises(WeightsError) as caught:
        read_guided_diffusion(save(state, tmp_path), {"num_head_channels": 16})
    assert str(caught.value).endswith(
        "Missing: middle_block.1.qkv.weight, time_embed.0.bias; surplus: stray.weight; of another "
        "shape: input_blocks.3.1.qkv.weight: expected (192, 64, 1), found (192, 64), "
        "out.0.bias: expected (32,), found (7,)."
    )


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist; download it"):
        read_guided_diffusion(tmp_path / "none.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(WeightsError, match="code in it is not run"):
        read_guided_diffusion(tmp_path / "code.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    with pytest.raises(WeightsError, match="not a readable state dict"):
        read_guided_diffusion(tmp_path / "torn.safetensors")
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "nested.pt")
    with pytest.raises(WeightsError, match="is not a state dict"):
        read_guided_diffusion(tmp_path / "nested.pt")
    (tmp_path / "stopped.pt").write_bytes(b"\x80\x02}q\x00h\xff.")
    with pytest.raises(WeightsError, match="not a readable state dict"):
        read_guided_diffusion(tmp_path / "stopped.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no UNet of guided-diffusion"):
        read_guided_diffusion(tmp_path / "other.pt")


@pytest.mark.real
def test_the_public_code_gave_the_same_numbers(real_data: Path) -> None:
    folder = real_data.parent / "fixtures" / "adm_tiny"
    unet = read_guided_diffusion(folder / "state_dict.safetensors", {"num_head_channels": 16})
    stored = load_file(folder / "activations.safetensors")
    steps = [50, 150, 250]
    # In double precision, so that our rounding does not add to that of the stored outputs.
    exact = copy.deepcopy(unet).double().eval()
    features = DiffusionFeatures(unet.eval(), range(9), steps, noise=stored["noise"])
    found = [part.chunk(3, dim=1) for part in features(stored["x0"])]
    noised = features.noised(stored["x0"], features.signal)
    for index, step in enumerate(steps):
        torch.testing.assert_close(noised[index], stored[f"x_t.{step}"], atol=1e-5, rtol=0)
        with torch.no_grad():
            output = exact(stored[f"x_t.{step}"].double(), step).sample.float()
        torch.testing.assert_close(output, stored[f"output.{step}"], atol=1e-5, rtol=1e-5)
        for block, parts in enumerate(found):
            wanted = stored[f"output_blocks.{block}.{step}"].float()
            torch.testing.assert_close(parts[index], wanted, atol=1e-3, rtol=1e-3)
