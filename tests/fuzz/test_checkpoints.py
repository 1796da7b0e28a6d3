"""Checkpoints and weight files, damaged."""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors.torch import save

import lcpdn_pl
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.guided_diffusion import read_guided_diffusion
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.backbones.text import TextEncoder
from lcpdn_pl.inference import Segmenter
from tests.backbones.test_guided_diffusion import SMALL
from tests.backbones.test_guided_diffusion import example as guided_diffusion
from tests.fuzz.mutations import (
    CANARY,
    ODD_VALUES,
    Content,
    cases,
    damaged,
    damaged_zip,
    odd_tree,
    outcome,
    zipped,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of what is odd in files

CODE = f"c{CANARY}\nspring\n)R.".encode()
"""A pickle that calls the canary."""
WITH_CODE = (
    Content(CODE),
    zipped({"archive/version": b"3\n", "archive/byteorder": b"little", "archive/data.pkl": CODE}),
)
PICKLE_TOKENS = (
    CODE,
    CODE[:-1],
    b"cbuiltins\neval\n",
    b"q\0",
    b"h\xff",
    b"J\xff\xff\xff\x7f",
    b".",
)
ODD_TENSORS = (
    torch.zeros(()),
    torch.zeros(0),
    torch.full((4, 3), torch.nan),
    torch.zeros(4, dtype=torch.complex64),
    torch.zeros(1).expand(2**40),
    torch.eye(3).to_sparse(),
    torch.zeros(2, 3, dtype=torch.int8),
)
STATE = guided_diffusion({**SMALL, "channel_mult": "1", "attention_resolutions": ()})[0]
# One number a tensor: a file of some kilobytes.
FLAT = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in STATE.items()}
STATED: Mapping[str, Any] = {
    **{"image_size": 16, "channel_mult": [1], "num_res_blocks": 1, "num_head_channels": 16},
    **{"attention_resolutions": [], "learn_sigma": True, "num_heads": 2},
}
KEY = 32 * "0"


def as_torch(tree: Any) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file)
    return Content(file.getvalue())


@st.composite
def damaged_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with another header, of a length that fits."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = draw(
        st.one_of(
            damaged(content[8:end]),
            odd_tree(json.loads(content[8:end])).map(
                lambda tree: json.dumps(tree, default=str).encode()
            ),
        )
    )
    return Content(len(header).to_bytes(8, "little") + header + content[end:])


def odd_torch(tree: Any) -> st.SearchStrategy[bytes]:
    content = as_torch(tree)
    return st.one_of(
        odd_tree(tree, (*ODD_TENSORS, *ODD_VALUES)).map(as_torch),
        damaged_zip(content, PICKLE_TOKENS),
        damaged(content, PICKLE_TOKENS),
    )


@cases(40)
@given(st.data())
def test_checkpoints(trained: Path, run: Path, data: st.DataObject) -> None:
    content = torch.load(trained / "last.ckpt", weights_only=True)
    (run / "last.ckpt").write_bytes(data.draw(odd_torch(content)))
    segmenter = outcome(lambda: lcpdn_pl.load(run / "last.ckpt", "cpu"))
    if segmenter is not None:
        assert isinstance(segmenter, Segmenter)
        for name, value in segmenter.network.state_dict().items():
            assert value.shape == content["state_dict"][f"network.{name}"].shape


@pytest.mark.parametrize("content", WITH_CODE, ids=["pickle", "zip"])
def test_checkpoints_that_bring_code(run: Path, content: bytes) -> None:
    (run / "last.ckpt").write_bytes(content)
    assert outcome(lambda: lcpdn_pl.load(run / "last.ckpt", "cpu")) is None


@cases(20)
@given(st.one_of(odd_torch(FLAT), damaged(CODE, PICKLE_TOKENS)))
@example(WITH_CODE[0])
@example(WITH_CODE[1])
def test_denoisers_of_guided_diffusion(folder: Path, content: bytes) -> None:
    (folder / "unet.pt").write_bytes(content)
    check_denoiser(folder / "unet.pt")


@cases(20)
@given(st.one_of(damaged_safetensors(save(STATE)), damaged(save(STATE))))
def test_denoisers_in_safetensors(folder: Path, content: bytes) -> None:
    (folder / "unet.safetensors").write_bytes(content)
    check_denoiser(folder / "unet.safetensors")


@cases(20)
@given(odd_tree(STATED))
def test_options_of_guided_diffusion(folder: Path, stated: Any) -> None:
    assume(isinstance(stated, dict))
    (folder / "flat.pt").write_bytes(as_torch(FLAT))
    check_denoiser(folder / "flat.pt", stated)


def check_denoiser(path: Path, stated: Mapping[str, object] = STATED) -> None:
    unet = outcome(lambda: read_guided_diffusion(path, stated))
    if unet is not None:
        assert isinstance(unet, UNet2DModel)
        for value in unet.state_dict().values():
            assert value.dtype == torch.float32


@cases(20)
@given(st.data())
def test_folders_of_denoisers(tiny_denoiser: str, folder: Path, data: st.DataObject) -> None:
    place = folder / "denoiser"
    shutil.copytree(tiny_denoiser, place, dirs_exist_ok=True)
    weights = place / "diffusion_pytorch_model.safetensors"
    config = json.loads((place / "config.json").read_text())
    if data.draw(st.booleans()):
        weights.write_bytes(data.draw(damaged_safetensors(weights.read_bytes())))
    else:
        (place / "config.json").write_bytes(data.draw(odd_json(config)))
    found = outcome(lambda: create_denoiser(str(place)))
    if found is not None:
        assert isinstance(found[0], UNet2DModel)
        assert found[1]
    found = outcome(lambda: create_denoiser(str(place / "config.json")))
    assert found is None or not found[1]


def odd_json(tree: Any) -> st.SearchStrategy[bytes]:
    content = json.dumps(tree).encode()
    odd = odd_tree(tree).map(lambda tree: Content(json.dumps(tree, default=str).encode()))
    return st.one_of(damaged(content), odd)


@cases(10)
@given(st.data())
def test_folders_of_text_encoders(tiny_bert: str, folder: Path, data: st.DataObject) -> None:
    place = folder / "bert"
    shutil.copytree(tiny_bert, place, dirs_exist_ok=True)
    file = data.draw(st.sampled_from(sorted(place.iterdir())))
    content = file.read_bytes()
    if file.suffix == ".json":
        file.write_bytes(data.draw(odd_json(json.loads(content))))
    else:
        file.write_bytes(data.draw(damaged(content)))
    encoder = outcome(lambda: TextEncoder(str(place)))
    if encoder is not None:
        assert isinstance(encoder.width, int)


@cases(50)
@given(st.data())
def test_entries_of_the_feature_store(folder: Path, data: st.DataObject) -> None:
    maps = [torch.arange(12.0).view(3, 2, 2), torch.ones(2, 1, 1)]
    FeatureStore(folder / "store").write(KEY, maps)
    entry = folder / "store" / f"{KEY}.safetensors"
    content = entry.read_bytes()
    entry.write_bytes(data.draw(damaged(content) | damaged_safetensors(content)))
    found = outcome(lambda: FeatureStore(folder / "store").read(KEY))
    if found is not None:
        assert all(map(torch.equal, found, maps))
