"""Denoisers by name: which weights they have, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lcpdn_pl.backbones import weights
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import ALPHA_BAR, DiffusionFeatures
from lcpdn_pl.errors import WeightsError

STEPS = [50, 150, 250]


def test_small_denoiser_is_random_and_says_so() -> None:
    unet, pretrained = create_denoiser("lcpdn-ddpm-small:random")
    features = DiffusionFeatures(unet, [6, 8, 12, 16], STEPS, name="small", pretrained=pretrained)
    assert features.describe() == "small, 7.0 M parameters, RANDOM"
    again, _ = create_denoiser("lcpdn-ddpm-small:random")
    other, _ = create_denoiser("lcpdn-ddpm-small:random", random_seed=1)
    torch.testing.assert_close(unet.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(unet.conv_in.weight, other.conv_in.weight)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        unet(torch.zeros(3, 12, 128, 128), torch.tensor(STEPS))
    assert flops.get_total_flops() < 25e9


@pytest.mark.parametrize("name", ["lcpdn-ddpm-tiny", "missing.json", "model.bin"])
def test_unknown_denoiser_lists_the_forms(name: str) -> None:
    with pytest.raises(WeightsError, match=r"expected 'lcpdn-ddpm-small', .* or a guided-diff"):
        create_denoiser(name)


def test_folder_that_holds_no_denoiser(tiny_bert: str) -> None:
    with pytest.raises(WeightsError, match="expected the folder of a diffusers UNet2DModel"):
        create_denoiser(tiny_bert + "/..")


def test_configurations_of_endless_layers_are_refused(tiny_denoiser: str, tmp_path: Path) -> None:
    config = json.loads(Path(tiny_denoiser, "config.json").read_text())
    for layers, message in ((33, "33 layers per block, of at most 32"), (2**31, "is no number of")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"layers_per_block": layers}))
        for name in (tmp_path, tmp_path / "config.json"):
            with pytest.raises(WeightsError, match=message):
                create_denoiser(str(name))


@pytest.mark.parametrize("kind", ["missing", "unexpected"])
def test_weights_that_are_not_all_there_are_refused(
    kind: str, tiny_denoiser: str, tmp_path: Path
) -> None:
    """Diffusers would draw the others at random, and merely warn."""
    folder = shutil.copytree(tiny_denoiser, tmp_path / "unet")
    file = folder / "diffusion_pytorch_model.safetensors"
    stored = load_file(file)
    middle = {key for key in stored if key.startswith("mid_block")}
    changed = {key: value for key, value in stored.items() if key not in middle}
    if kind == "unexpected":
        changed = stored | {f"new.{key}": stored[key].clone() for key in middle}
    save_file(changed, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"do not fit: {kind} .*mid_block.*, {len(middle)} in"):
        create_denoiser(str(folder))


def test_folder_counts_as_pretrained(tiny_denoiser: str) -> None:
    unet, pretrained = create_denoiser(tiny_denoiser)
    assert pretrained
    stored = load_file(f"{tiny_denoiser}/diffusion_pytorch_model.safetensors")
    assert stored.keys() == unet.state_dict().keys()
    assert all(torch.equal(value, stored[key]) for key, value in unet.state_dict().items())


def test_small_denoiser_comes_with_the_package() -> None:
    unet, pretrained = create_denoiser("lcpdn-ddpm-small")
    assert pretrained
    random, _ = create_denoiser("lcpdn-ddpm-small:random")
    assert random.state_dict().keys() == unet.state_dict().keys()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in unet.parameters())
    assert (weights.DDPM_SMALL / "diffusion_pytorch_model.safetensors").stat().st_size < 16e6
    # Of a smooth picture a denoiser knows which part is noise; random weights do not.
    line = torch.linspace(-1, 1, 64)
    clean = (0.5 * torch.cos(3 * line)[:, None] * line).expand(1, 3, -1, -1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for step in STEPS:
        rate = ALPHA_BAR[step].float()
        noised = F.pixel_unshuffle(rate.sqrt() * clean + (1 - rate).sqrt() * noise, 2)
        with torch.no_grad():
            error = (unet(noised, step).sample - F.pixel_unshuffle(noise, 2)).square().mean()
        assert error < 0.2
