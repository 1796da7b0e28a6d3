"""``lcpdn weights`` through the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcpdn_pl.backbones.catalogue import CATALOGUE
from lcpdn_pl.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LCPDN_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_list_says_what_is_there_and_what_is_not(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    main(["weights", "list", "--verify"])
    printed = capsys.readouterr().out
    for name, weights in CATALOGUE.items():
        assert name in printed
        assert weights.licence in printed
        assert (weights.sha256 or "not stated") in printed
    assert f"{folder}/256x256_diffusion_uncond.pt (not there; lcpdn weights fetch 256x" in printed
    assert "model.safetensors (there, verified)" in printed


def test_broken_weights_are_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(CATALOGUE["minilm-l6"], sha256="0" * 64)
    monkeypatch.setitem(CATALOGUE, "minilm-l6", broken)
    main(["weights", "list"])
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "list", "--verify"])
    assert stopped.value.code == 1
    assert f"Checksums differ: {broken.path}" in capsys.readouterr().err


def test_fetch_puts_the_file_where_it_is_told(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "256x256_diffusion_uncond.pt"
    server = tmp_path / name
    save_file({"weight": torch.ones(1)}, server)
    entry = replace(CATALOGUE[name], source=server.as_uri(), sha256=None)
    monkeypatch.setitem(CATALOGUE, name, entry)
    main(["weights", "fetch", name])
    main(["weights", "fetch", name, f"--to={tmp_path / 'stick'}"])
    assert (folder / name).read_bytes() == (tmp_path / "stick" / name).read_bytes()


@pytest.mark.parametrize("name", ["nonsense", "minilm-l6"])
def test_only_what_does_not_come_along_is_fetched(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "fetch", name])
    assert stopped.value.code == 1
    assert f"no weights '{name}' to fetch; expected all or one of" in capsys.readouterr().err
