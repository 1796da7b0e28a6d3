"""Image and text encoders: the embedded ones, and tiny ones through the same loading code."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoTokenizer

from lcpdn_pl.backbones.base import FrozenBackbone, frozen_backbones
from lcpdn_pl.backbones.image import create_image_encoder
from lcpdn_pl.backbones.text import TextEncoder, create_text_encoder
from lcpdn_pl.errors import WeightsError


def texture(kind: str, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:128, :128] + rng.integers(0, 50, (2, 1, 1))
    pattern = np.sin(columns / 2) if kind == "stripes" else np.sin(columns / 9) * np.sin(rows / 9)
    noisy = np.clip(pattern + rng.normal(0, 0.1, pattern.shape), -1, 1)
    return torch.from_numpy(noisy).float().expand(1, 3, -1, -1)


def test_efficientnet_is_pretrained_and_stays_in_eval() -> None:
    encoder = create_image_encoder("efficientnet-lite0").train()
    assert not any(module.training for module in encoder.modules())
    assert encoder(torch.zeros(2, 3, 256, 256)).shape == (2, 64, 320)
    kinds = [("stripes", 0), ("stripes", 1), ("blobs", 2)]
    stripes, again, blobs = (encoder(texture(*kind)).mean(dim=1) for kind in kinds)
    assert cosine_similarity(stripes, again) > cosine_similarity(stripes, blobs) + 0.2


def test_efficientnet_sees_its_own_normalisation() -> None:
    encoder = create_image_encoder("efficientnet-lite0")
    seen: list[Tensor] = []
    stem = encoder.get_submodule("net.conv_stem")
    stem.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    grey = torch.tensor([0, 127, 255]).float()
    encoder((grey / 127.5 - 1).view(3, 1, 1, 1).expand(3, 3, 32, 32))
    torch.testing.assert_close(seen[0][:, 0, 8, 8], (grey - 127) / 128)


def test_open_clip_tokens_come_from_a_weights_file(tmp_path: Path) -> None:
    (tmp_path / "tiny-vit.json").write_text(
        '{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 2, "width": 16,'
        ' "head_width": 8, "patch_size": 8}, "text_cfg": {"context_length": 8,'
        ' "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}}'
    )
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-vit").eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = create_image_encoder(f"open_clip/tiny-vit/{tmp_path / 'weights.pt'}")
    assert not encoder.train().training
    assert encoder.width == 16
    assert encoder.describe().startswith("open_clip/tiny-vit/")
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = encoder(image)
    assert tokens.shape == (2, 17, 16)
    mean, std = torch.tensor([model.visual.image_mean, model.visual.image_std]).view(2, 1, 3, 1, 1)
    model.visual.output_tokens = True
    pooled, patches = model.visual(((image + 1) / 2 - mean) / std)
    torch.testing.assert_close(tokens[:, 0] @ model.visual.proj, pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 1:], patches, atol=1e-4, rtol=1e-4)
    assert encoder(torch.zeros(1, 3, 64, 48)).shape == (1, 17, 16)


@pytest.mark.parametrize("name", ["resnet", "open_clip/ViT-B-16", "open_clip/No-Such/openai"])
def test_unknown_image_encoder(name: str) -> None:
    with pytest.raises(WeightsError, match=r"OpenCLIP could not load|Unknown image encoder"):
        create_image_encoder(name)


def test_minilm_knows_phrases() -> None:
    encoder = create_text_encoder("minilm-l6")
    reports = [
        "Infection in the lower left lung.",
        "Pneumonia at the base of the left lung.",
        "Stock prices fell sharply on Monday.",
    ]
    tokens, valid = encoder(reports)
    weight = valid.unsqueeze(-1).float()
    first, similar, unrelated = (tokens * weight).sum(1) / weight.sum(1)
    assert cosine_similarity(first, similar, 0) > cosine_similarity(first, unrelated, 0) + 0.3
    assert tokens.shape[2] == encoder.width == 384


def test_padding_changes_no_token(tiny_bert: str) -> None:
    short, long = "One lung.", "Two round nuclei, upper right, lower left."
    together, valid = TextEncoder(tiny_bert)([short, long])
    alone, all_valid = TextEncoder(tiny_bert)([short])
    count = alone.shape[1]
    assert all_valid.all()
    assert valid[0].tolist() == [True] * count + [False] * (together.shape[1] - count)
    torch.testing.assert_close(together[0, :count], alone[0], atol=1e-5, rtol=1e-5)
    assert together[0, count:].abs().max() == 0
    assert together.dtype == torch.float32
    assert not together.requires_grad


def test_each_report_is_encoded_once_and_memory_is_bounded(tiny_bert: str) -> None:
    encoder = TextEncoder(tiny_bert, cache_size=2)
    for _ in range(3):
        encoder(["one", "two", "one"])
    assert encoder.encoded == 2
    encoder(["left"])
    assert len(encoder._cache) == 2
    encoder(["one"])  # used last before "left" came, so still there or encoded anew
    assert encoder.encoded in (3, 4)


def test_long_reports_are_cut(tiny_bert: str) -> None:
    assert TextEncoder(tiny_bert, max_tokens=6)(["one two left right upper lower"])[0].shape[1] == 6


def test_missing_encoder_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match="fetch it on another machine and give its path") as e:
        create_text_encoder("./no-such-folder")
    assert "\n" not in str(e.value)


def test_hub_revision_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(source: str, revision: str | None, trust_remote_code: bool) -> None:
        assert not trust_remote_code
        asked.append((source, revision))
        raise OSError("offline")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(WeightsError, match="offline"):
        create_text_encoder("owner/model@abc")
    assert asked == [("owner/model", "abc")]


def test_frozen_backbone() -> None:
    backbone = FrozenBackbone()
    backbone.linear = nn.Linear(1000, 1000)
    backbone.freeze("stub", pretrained=False)
    assert backbone.describe() == "stub, 1.0 M parameters, RANDOM"
    assert not backbone.train().training
    assert not any(p.requires_grad for p in backbone.parameters())
    before = backbone.fingerprint()
    with torch.no_grad():
        backbone.linear.bias[3] += 1
    assert backbone.fingerprint() != before
    assert list(frozen_backbones(nn.Sequential(nn.Linear(1, 1), backbone))) == ["1"]
