"""Fetching from a folder that stands for the network, and finding what was fetched."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from lcpdn_pl.backbones import catalogue
from lcpdn_pl.backbones.catalogue import CATALOGUE, Weights, weights_folder
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.image import create_image_encoder
from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.errors import WeightsError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for fetched weights."""
    monkeypatch.setenv("LCPDN_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def published(tmp_path: Path) -> Weights:
    """One file on a server."""
    file = tmp_path / "server" / "net.safetensors"
    file.parent.mkdir()
    save_file({"weight": torch.ones(3)}, file)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    return Weights("net", "denoiser", 1, "MIT", file.name, checksum, file.as_uri())


def test_embedded_weights_are_there_and_intact() -> None:
    for name in ("lcpdn-ddpm-small", "efficientnet-lite0", "minilm-l6"):
        assert CATALOGUE[name].present
        assert CATALOGUE[name].intact() is True
        assert CATALOGUE[name].path.stat().st_size / 1e6 == pytest.approx(
            CATALOGUE[name].megabytes, abs=0.1
        )


@pytest.mark.parametrize(
    ("name", "create"),
    [
        ("lcpdn-ddpm-small", create_denoiser),
        ("efficientnet-lite0", create_image_encoder),
        ("minilm-l6", create_text_encoder),
    ],
)
def test_embedded_weights_are_verified_when_they_are_loaded(
    name: str, create: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(CATALOGUE[name], folder=tmp_path)
    monkeypatch.setitem(CATALOGUE, name, entry)
    with pytest.raises(WeightsError, match=f"{entry.file} is missing, but comes with"):
        create(name)
    entry.path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=rf"{entry.path}: expected the weights {name} with SHA"):
        create(name)


def test_fetched_files_are_whole_and_verified(published: Weights, folder: Path) -> None:
    assert not published.present
    assert published.fetch(folder) == published.path == folder / "net.safetensors"
    assert published.intact() is True
    published.path.write_bytes(b"torn")
    assert published.intact() is False
    published.fetch(folder)
    assert published.intact() is True
    assert list(folder.iterdir()) == [published.path]


def test_another_checksum_leaves_nothing(published: Weights, folder: Path) -> None:
    wrong = replace(published, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"expected SHA-256 0000.*found .*nothing was kept"):
        wrong.fetch(folder)
    assert list(folder.iterdir()) == []


def test_a_download_without_the_weights_is_no_download(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "snapshot_download", lambda *_, **__: None)
    entry = Weights("a", "text_encoder", 1, "MIT", "model.safetensors", source="hub:owner/a")
    with pytest.raises(WeightsError, match="a could not be fetched from hub:owner/a"):
        entry.fetch(folder)
    assert not entry.present


def test_errors_without_text_are_named(
    published: Weights, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalled(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("torch.hub.download_url_to_file", stalled)
    with pytest.raises(WeightsError, match=r"net could not be fetched .*: TimeoutError\. Without"):
        published.fetch(folder)


def test_without_network_the_remedy_is_one_line(folder: Path) -> None:
    gone = replace(CATALOGUE["256x256_diffusion_uncond.pt"], source="file:///nowhere/at/all.pt")
    with pytest.raises(WeightsError, match=r"lcpdn weights fetch 256x256.*--to FOLDER") as error:
        gone.fetch(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(folder.iterdir()) == []


def test_hub_weights_are_used_once_they_are_there(
    tiny_bert: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(
        model: str, revision: str | None, allow_patterns: list[str], local_dir: Path
    ) -> None:
        asked.append((model, revision))
        assert "model.safetensors" in allow_patterns
        shutil.copytree(tiny_bert, local_dir, dirs_exist_ok=True)
        (local_dir / ".cache").mkdir()

    name = "owner/bert@abc"
    entry = Weights(name, "text_encoder", 1, "MIT", "model.safetensors", source=f"hub:{name}")
    monkeypatch.setattr(catalogue, "snapshot_download", download)
    monkeypatch.setitem(CATALOGUE, name, entry)
    entry.fetch(folder)
    assert asked == [("owner/bert", "abc")]
    assert not (entry.path.parent / ".cache").exists()
    encoder = create_text_encoder(name)
    assert encoder.describe().startswith(f"{name}, 0.0 M")
    wanted, _ = create_text_encoder(tiny_bert)(["one lung"])
    torch.testing.assert_close(encoder(["one lung"])[0], wanted)


def test_fetched_denoiser_is_found_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "256x256_diffusion_uncond.pt"
    with pytest.raises(WeightsError, match=f"lcpdn weights fetch {name}"):
        create_denoiser(name)
    folder.mkdir()
    (folder / name).touch()
    with pytest.raises(WeightsError, match=rf"expected the weights {name} with SHA-256 a37c32ff"):
        create_denoiser(name)
    empty = hashlib.sha256().hexdigest()
    monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], sha256=empty))
    read = []

    def reader(path: Path, stated: object) -> UNet2DModel:
        read.append((path, stated))
        return UNet2DModel()

    monkeypatch.setattr("lcpdn_pl.backbones.denoisers.read_guided_diffusion", reader)
    assert create_denoiser(name, {"image_size": 256})[1] is True
    assert read == [(weights_folder() / name, {"image_size": 256})]


def test_missing_image_encoder_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("lcpdn_pl.backbones.image.open_clip.create_model", offline)
    with pytest.raises(WeightsError, match=r"no network.*weights fetch open_clip/ViT-B-16/openai"):
        create_image_encoder("open_clip/ViT-B-16/openai")


def test_the_tag_of_a_local_copy_decides_the_activation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CATALOGUE["open_clip/ViT-B-16/openai"]
    entry.path.parent.mkdir(parents=True)
    entry.path.touch()
    asked: dict[str, object] = {}

    def create(architecture: str, pretrained: str, force_quick_gelu: bool) -> None:
        asked.update(file=pretrained, quick_gelu=force_quick_gelu, architecture=architecture)
        raise OSError("seen enough")

    monkeypatch.setattr("lcpdn_pl.backbones.image.open_clip.create_model", create)
    with pytest.raises(WeightsError, match="seen enough"):
        create_image_encoder("open_clip/ViT-B-16/openai")
    path = folder / "open_clip--ViT-B-16--openai" / "open_clip_model.safetensors"
    assert asked == {"file": str(path), "quick_gelu": True, "architecture": "ViT-B-16"}
