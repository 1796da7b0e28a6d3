"""Reading guided-diffusion checkpoints, against state dicts written by renaming and real ones."""

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcpdn_pl.backbones.diffusion import DiffusionFeatures, read_guided_diffusion
from lcpdn_pl.errors import WeightsError

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def small_unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        upsample_type="resnet",
        downsample_type="resnet",
        flip_sin_to_cos=True,
        freq_shift=0,
        attention_head_dim=16,
        attn_norm_num_groups=32,
    ).eval()


def guided(unet: UNet2DModel, new_order: bool) -> dict[str, Tensor]:
    """The state dict as guided-diffusion would have written it."""
    modules = [
        ("input_blocks.0.0", unet.conv_in, "plain"),
        ("time_embed.0", unet.time_embedding.linear_1, "plain"),
        ("time_embed.2", unet.time_embedding.linear_2, "plain"),
        ("input_blocks.1.0", unet.down_blocks[0].resnets[0], "resnet"),
        ("input_blocks.2.0", unet.down_blocks[0].downsamplers[0], "resnet"),
        ("input_blocks.3.0", unet.down_blocks[1].resnets[0], "resnet"),
        ("input_blocks.3.1", unet.down_blocks[1].attentions[0], "attention"),
        ("middle_block.0", unet.mid_block.resnets[0], "resnet"),
        ("middle_block.1", unet.mid_block.attentions[0], "attention"),
        ("middle_block.2", unet.mid_block.resnets[1], "resnet"),
        ("output_blocks.0.0", unet.up_blocks[0].resnets[0], "resnet"),
        ("output_blocks.0.1", unet.up_blocks[0].attentions[0], "attention"),
        ("output_blocks.1.0", unet.up_blocks[0].resnets[1], "resnet"),
        ("output_blocks.1.1", unet.up_blocks[0].attentions[1], "attention"),
        ("output_blocks.1.2", unet.up_blocks[0].upsamplers[0], "resnet"),
        ("output_blocks.2.0", unet.up_blocks[1].resnets[0], "resnet"),
        ("output_blocks.3.0", unet.up_blocks[1].resnets[1], "resnet"),
        ("out.0", unet.conv_norm_out, "plain"),
        ("out.2", unet.conv_out, "plain"),
    ]
    state = {}
    for place, module, kind in modules:
        own = module.state_dict()
        if kind == "attention":
            for part in ("weight", "bias"):
                qkv = [own.pop(f"to_{name}.{part}") for name in "qkv"]
                if new_order:
                    joined = torch.cat(qkv)
                else:
                    heads = [piece.unflatten(0, (-1, 16)) for piece in qkv]
                    joined = torch.stack(heads, dim=1).flatten(0, 2)
                state[f"{place}.qkv.{part}"] = joined[..., None] if part == "weight" else joined
            weight = own.pop("to_out.0.weight")
            state[f"{place}.proj_out.weight"] = weight[..., None]
            state[f"{place}.proj_out.bias"] = own.pop("to_out.0.bias")
            own = {key.replace("group_norm", "norm"): value for key, value in own.items()}
        for key, value in own.items():
            name, _, part = key.rpartition(".")
            name = RESNET.get(name, name) if kind == "resnet" else name
            state[".".join(filter(None, (place, name, part)))] = value
    return {key: value.contiguous().clone() for key, value in state.items()}


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_round_trip(tmp_path: Path, order: str) -> None:
    unet = small_unet()
    torch.save(guided(unet, order == "new"), tmp_path / "model.pt")
    read = read_guided_diffusion(tmp_path / "model.pt", 16, order).eval()  # type: ignore[arg-type]
    noised = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(read(noised, 150).sample, unet(noised, 150).sample)


def test_wrong_keys_are_all_listed(tmp_path: Path) -> None:
    state = guided(small_unet(), False)
    del state["time_embed.0.bias"], state["middle_block.0.in_layers.2.weight"]
    state["stray.weight"] = torch.zeros(1)
    state["out.0.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_guided_diffusion(tmp_path / "model.safetensors", 16)
    message = str(caught.value)
    assert "missing: mid_block.resnets.0.conv1.weight, time_embedding.linear_1.bias" in message
    assert "surplus" in message
    assert "stray.weight" in message
    assert "conv_norm_out.bias: expected (32,), found (7,)" in message


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist; download it"):
        read_guided_diffusion(tmp_path / "none.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(WeightsError, match="need code to be unpickled are refused"):
        read_guided_diffusion(tmp_path / "code.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    with pytest.raises(WeightsError, match="not a readable state dict"):
        read_guided_diffusion(tmp_path / "torn.safetensors")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no unconditional guided-diffusion UNet"):
        read_guided_diffusion(tmp_path / "other.pt")


@pytest.mark.real
def test_the_public_code_gave_the_same_numbers(real_data: Path) -> None:
    folder = real_data.parent / "fixtures" / "adm_tiny"
    unet = read_guided_diffusion(folder / "state_dict.safetensors", num_head_channels=16).eval()
    stored = load_file(folder / "activations.safetensors")
    steps = [50, 150, 250]
    features = DiffusionFeatures(unet, range(9), steps, noise=stored["noise"])
    found = [part.chunk(3, dim=1) for part in features(stored["x0"])]
    noised = features.noised(stored["x0"], features.signal)
    for index, step in enumerate(steps):
        torch.testing.assert_close(noised[index], stored[f"x_t.{step}"], atol=1e-5, rtol=0)
        with torch.no_grad():
            output = unet(stored[f"x_t.{step}"], step).sample
        torch.testing.assert_close(output, stored[f"output.{step}"], atol=1e-5, rtol=1e-5)
        for block, parts in enumerate(found):
            wanted = stored[f"output_blocks.{block}.{step}"].float()
            torch.testing.assert_close(parts[index], wanted, atol=1e-3, rtol=1e-3)
