"""What image tokens mean: their order, their independence of size, and what is refused."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from lcpdn_pl.backbones.image import ImageEncoder, create_image_encoder
from lcpdn_pl.errors import WeightsError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


def open_clip_name(folder: Path, architecture: str, vision: dict[str, Any]) -> str:
    """Registers a tiny OpenCLIP model, saves random weights, and names it for our loader."""
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, **vision}, "text_cfg": TEXT}
    (folder / f"{architecture}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    path = folder / "weights.pt"
    torch.save(open_clip.create_model(architecture).state_dict(), path)
    return f"open_clip/{architecture}/{path}"


@pytest.fixture
def vit(tmp_path: Path) -> ImageEncoder:
    vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    return create_image_encoder(open_clip_name(tmp_path, "order-vit", vision))


def changed_token(encoder: ImageEncoder, size: int, row: slice, column: slice) -> int:
    """The token that changes most when the image is changed at one place."""
    before = torch.zeros(1, 3, size, size)
    after = before.clone()
    after[..., row, column] = torch.rand(
        after[..., row, column].shape, generator=torch.Generator().manual_seed(0)
    )
    return int((encoder(after) - encoder(before)).norm(dim=2).argmax())


def test_efficientnet_tokens_are_in_row_order() -> None:
    encoder = create_image_encoder("efficientnet-lite0")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    # The patch of row 6 and column 1 of the 8 x 8 positions of a 256 px image.
    assert changed_token(encoder, 256, slice(192, 224), slice(32, 64)) == 6 * 8 + 1


def test_open_clip_tokens_are_in_row_order_after_the_class_token(vit: ImageEncoder) -> None:
    assert changed_token(vit, 32, slice(16, 24), slice(8, 16)) == 1 + 2 * 4 + 1


def test_tokens_are_the_coarsest_map(vit: ImageEncoder) -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for encoder, sides in (
        (create_image_encoder("efficientnet-lite0"), [32, 16, 8, 4, 2]),
        (vit, [4]),
    ):
        maps = encoder.encode(image)[1]
        assert [(m.shape[1], m.shape[2], m.shape[3]) for m in maps] == [
            (width, side, side) for width, side in zip(encoder.map_widths, sides, strict=True)
        ]
        # The transformer sees 32 x 32 pixels whatever comes, in patches of 8.
        size = 32 if encoder is vit else 64
        assert [size // side for side in sides] == list(encoder.map_strides)
        tokens = maps[-1].flatten(2).transpose(1, 2)
        assert torch.equal(encoder(image)[:, -tokens.shape[1] :], tokens)


@pytest.mark.parametrize("size", [(16, 16), (64, 48)])
def test_open_clip_resizes_to_its_own_size(vit: ImageEncoder, size: tuple[int, int]) -> None:
    values = torch.tensor([-1.0, 0.25, 1.0]).view(1, 3, 1, 1)
    wanted = vit(values.expand(1, 3, 32, 32))
    torch.testing.assert_close(vit(values.expand(1, 3, *size)), wanted, atol=1e-4, rtol=1e-4)


def test_open_clip_resizing_does_not_overshoot(vit: ImageEncoder) -> None:
    seen: list[Tensor] = []
    stem = vit.get_submodule("visual.conv1")
    stem.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    edge = torch.ones(1, 3, 16, 16)
    edge[..., 8:] = -1
    vit(edge)
    mean, std = vit.get_buffer("mean"), vit.get_buffer("std")
    pixels = seen[0] * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert pixels.max() == pytest.approx(1, abs=1e-6)


def test_a_convolutional_open_clip_is_refused(tmp_path: Path) -> None:
    vision = {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    name = open_clip_name(tmp_path, "tiny-resnet", vision)
    with pytest.raises(WeightsError, match=r"'tiny-resnet' is no vision transformer.*ViT-B-16"):
        create_image_encoder(name)
