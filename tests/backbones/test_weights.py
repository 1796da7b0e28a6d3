"""Denoisers on disk: what is written, and that it is written whole."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.weights import random_unet, save_denoiser
from lcpdn_pl.files import write_whole

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def unet(tiny_denoiser: str) -> UNet2DModel:
    return UNet2DModel.from_pretrained(tiny_denoiser)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_denoiser_comes_back_rounded_to_half_precision(unet: UNet2DModel, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "denoiser"
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    save_denoiser(unet, folder, {"README.md": "Grüße", "curve.png": b"\x89PNG"})
    assert set(contents(folder)) == {"config.json", WEIGHTS, "README.md", "curve.png"}
    assert (folder / "README.md").read_bytes() == "Grüße".encode()
    assert (folder / "curve.png").read_bytes() == b"\x89PNG"
    assert {value.dtype for value in load_file(folder / WEIGHTS).values()} == {torch.float16}
    back, pretrained = create_denoiser(str(folder))
    assert pretrained
    assert back.state_dict().keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(unet.state_dict()[key], value)  # the one in training stays as it is
        assert torch.equal(back.state_dict()[key], value.half().float())
    assert back(torch.zeros(1, 12, 8, 8), 5).sample.dtype == torch.float32
    assert [path.name for path in folder.parent.iterdir()] == ["denoiser"]


def test_denoiser_is_replaced_whole(unet: UNet2DModel, tmp_path: Path) -> None:
    folder = tmp_path / "denoiser"
    save_denoiser(unet, folder, {"old.txt": "old", "README.md": "old"})
    with torch.no_grad():
        unet.conv_in.bias.fill_(0.25)
    save_denoiser(unet, folder, {"README.md": "new"})
    assert set(contents(folder)) == {"config.json", WEIGHTS, "README.md"}
    assert (folder / "README.md").read_text() == "new"
    assert (load_file(folder / WEIGHTS)["conv_in.bias"] == 0.25).all()
    assert [path.name for path in tmp_path.iterdir()] == ["denoiser"]


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("step", ["weights", "documents", "move"])
def test_failure_leaves_what_was_there(
    step: str, existed: bool, unet: UNet2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "denoiser"
    if existed:
        save_denoiser(unet, folder, {"README.md": "old"})
    before = contents(tmp_path)

    move = Path.rename

    def write_some(path: Path, content: str | bytes) -> None:
        if step == "weights" and path.name == WEIGHTS:
            path.write_bytes(b"torn")
            raise OSError("disk full")
        if step == "documents" and path.name == "curve.csv":
            path.write_bytes(b"st")
            raise KeyboardInterrupt
        write_whole(path, content)

    def move_some(self: Path, target: Path) -> Path:
        if step == "move" and self.name == target.name:
            raise OSError("disk full")
        return move(self, target)

    monkeypatch.setattr("lcpdn_pl.backbones.weights.write_whole", write_some)
    monkeypatch.setattr(Path, "rename", move_some)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_denoiser(unet, folder, {"README.md": "new", "curve.csv": "step"})
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["denoiser"] * existed


def test_random_denoiser_follows_its_seed_and_spares_the_callers(unet: UNet2DModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (random_unet(unet.config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.initial_seed() == 5
    weights = [made.state_dict() for made in (first, again, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["conv_in.weight"], weights[2]["conv_in.weight"])
