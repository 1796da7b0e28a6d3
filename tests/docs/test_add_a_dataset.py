"""``docs/add_a_dataset.md``, followed word by word."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.cli import main

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "add_a_dataset.md"


def test_the_page_leads_to_a_trained_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    page = PAGE.read_text()
    for language, content in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL):
        if language == "python":
            exec(content, {})  # noqa: S102 - our own page
        elif language == "csv":
            Path("clinic/manifest.csv").write_text(content)
        else:
            for line in content.splitlines():
                stamp = next(Path("runs/manifest/lcpdn").glob("*"), Path("STAMP")).name
                program, *arguments = shlex.split(line.replace("STAMP", stamp))
                assert program == "lcpdn"
                main(arguments)
    assert "dice_global" in capsys.readouterr().out
    (run,) = Path("runs/manifest/lcpdn").iterdir()
    results = pd.read_csv(run / "test" / "manifest" / "per_image.csv")
    assert results["name"].tolist() == ["case 8", "case 9"]
    assert Image.open("clinic/samples.png").width > 100
    for name in ("case 10", "case 11"):
        mask = np.asarray(Image.open(run / "predict" / "manifest" / f"{name}.png"))
        assert mask.shape == (128, 128)
