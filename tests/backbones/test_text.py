"""The report cache, full precision, and where an encoder is looked for."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from lcpdn_pl.backbones import text
from lcpdn_pl.backbones.text import TextEncoder, create_text_encoder
from lcpdn_pl.errors import ConfigError, WeightsError


def test_the_least_recently_used_report_goes_first(tiny_bert: str) -> None:
    encoder = TextEncoder(tiny_bert, cache_size=2)
    encoder(["one", "two", "one"])
    encoder(["left"])  # "two" was used before "one", and goes
    encoder(["one", "left"])
    assert encoder.encoded == 3
    encoder(["two"])
    assert encoder.encoded == 4


def test_a_configuration_of_other_types_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": [64]}))
    with pytest.raises(WeightsError, match="could not be loaded"):
        TextEncoder(str(tmp_path))


def test_a_batch_larger_than_the_cache_is_whole(tiny_bert: str) -> None:
    reports = ["one", "two lung", "left", "one"]
    tokens, valid = TextEncoder(tiny_bert, cache_size=1)(reports)
    wanted, all_valid = TextEncoder(tiny_bert)(reports)
    torch.testing.assert_close(tokens, wanted)
    assert torch.equal(valid, all_valid)
    assert valid.sum(dim=1).tolist() == [3, 4, 3, 3]  # the words, [CLS] and [SEP]


def test_tokens_are_the_last_hidden_states(tiny_bert: str) -> None:
    report = "One round nuclei, left lung."
    batch = AutoTokenizer.from_pretrained(tiny_bert)(report, return_tensors="pt")
    wanted = AutoModel.from_pretrained(tiny_bert).eval()(**batch).last_hidden_state
    encoder = TextEncoder(tiny_bert).train()
    assert not any(module.training for module in encoder.modules())
    torch.testing.assert_close(encoder([report])[0], wanted.detach())


def test_full_precision_whatever_the_file_and_autocast(tiny_bert: str, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tiny_bert).half().save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = encoder(["one lung"])
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, TextEncoder(str(tmp_path))(["one lung"])[0])


@pytest.mark.parametrize(
    ("name", "source", "revision"),
    [("owner/model@1a2b", "owner/model", "1a2b"), ("owner/model", "owner/model", None)],
)
def test_tokenizer_and_weights_are_of_one_revision(
    monkeypatch: pytest.MonkeyPatch, name: str, source: str, revision: str | None
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Stub(nn.Module):
        config = SimpleNamespace(hidden_size=5)

    def load_tokenizer(source: str, revision: str | None, **options: bool) -> SimpleNamespace:
        assert options == {"trust_remote_code": False}
        asked.append((source, revision))
        return SimpleNamespace(model_max_length=32)

    def load_model(
        source: str, revision: str | None, **options: object
    ) -> tuple[nn.Module, dict[str, list[str]]]:
        asked.append((source, revision))
        assert options == {
            "dtype": torch.float32,
            "output_loading_info": True,
            "trust_remote_code": False,
        }
        return Stub(), {"missing_keys": ["pooler.dense.weight"], "mismatched_keys": []}

    monkeypatch.setattr(text, "AutoTokenizer", SimpleNamespace(from_pretrained=load_tokenizer))
    monkeypatch.setattr(text, "AutoModel", SimpleNamespace(from_pretrained=load_model))
    encoder = create_text_encoder(name)
    assert asked == [(source, revision)] * 2
    assert (encoder.name, encoder.width, encoder.max_tokens) == (name, 5, 32)


def test_weights_that_are_not_all_there_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    """Transformers would draw the others at random, and merely warn."""
    folder = shutil.copytree(tiny_bert, tmp_path / "a@b")
    assert TextEncoder(str(folder)).pretrained
    assert create_text_encoder(str(folder)).name == str(folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {key.replace("encoder.layer.1", "layer.1"): value for key, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit: missing encoder\.layer\.1.*, 16 in all"):
        TextEncoder(str(folder))


@pytest.mark.parametrize(("asked", "taken"), [(3, 3), (62, 62), (500, 62)])
def test_reports_are_cut_to_what_the_encoder_takes(tiny_bert: str, asked: int, taken: int) -> None:
    tokens, _ = TextEncoder(tiny_bert, max_tokens=asked)(["lung " * 600])
    assert tokens.shape[1] == taken
    with pytest.raises(ConfigError, match="expected more than the 2"):
        TextEncoder(tiny_bert, max_tokens=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_ten_thousand_rows_with_a_hundred_reports_cost_a_hundred_encodings(
    tiny_bert: str, workers: int
) -> None:
    rows = [f"lung {number * 7 % 100}" for number in range(10_000)]
    encoder = TextEncoder(tiny_bert)
    for batch in DataLoader(rows, batch_size=50, num_workers=workers):  # type: ignore[arg-type]
        tokens, _ = encoder(batch)
        assert len(tokens) == 50
    assert encoder.encoded == len(encoder._cache) == 100
