"""Configurations that name code."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import lcpdn_pl
from lcpdn_pl.cli import main
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.trust import ALLOW, refuse_foreign_code
from tests.test_restore import run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory

EVIL = "from pathlib import Path\n\nPath('run').touch()\n\n\nclass Network:\n    pass\n"


def nested(name: str) -> list[dict[str, Any]]:
    """Every place that names a class, in the forms in which it may be written."""
    return [
        {"model": {"class_path": name}},
        {"model": name},
        {"model": {"init_args": {"network": {"class_path": name, "init_args": {}}}}},
        {"model.network": name},
        {"model": {"init_args": {"optimizer": name}}},
        {"trainer": {"callbacks": [{"class_path": name}]}},
        {"trainer": {"callbacks": [name]}},
        {"data": {"init_args": {"class_path": {"class_path": name}}}},
    ]


@pytest.mark.parametrize("number", range(len(nested(""))))
def test_foreign_names_are_refused_wherever_they_stand(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    for name in ("lcpdn_pl.models.UNet", "torch.optim.Adam", "UNet"):
        path.write_text(yaml.safe_dump(nested(name)[number]))
        refuse_foreign_code(path)
    path.write_text(yaml.safe_dump(nested("lcpdn_plus.Evil")[number]))
    with pytest.raises(ConfigError, match=r"imported and run: lcpdn_plus\.Evil\. Expected classes"):
        refuse_foreign_code(path)
    monkeypatch.setenv(ALLOW, "1")
    refuse_foreign_code(path)


def test_what_cannot_be_read_is_left_to_the_parser(tmp_path: Path) -> None:
    refuse_foreign_code(tmp_path / "gone.yaml")
    broken = tmp_path / "broken.yaml"
    for content in (b"a: [", b"!!python/object/apply:os.system [exit]"):
        broken.write_bytes(content)
        refuse_foreign_code(broken)


@pytest.mark.parametrize("content", [b"model: \xff", b"a: 2020-13-45", b"a: !!int b", b"[" * 5000])
def test_what_would_break_the_parser_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: expected YAML as UTF-8 text, found a"):
        refuse_foreign_code(path)


def test_aliases_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [1, 2]\nb: {c: *a, d: *a}")
    refuse_foreign_code(path)
    multiplied = [
        "a: &a0 [1]",
        *(f"a{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9)),
    ]
    for content in ("model: &a {model: *a}", "\n".join(multiplied)):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"aliases that stand for more than 100,000 of them"):
            refuse_foreign_code(path)


def test_nothing_of_a_file_is_imported_before_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW, raising=False)
    Path("evil_module.py").write_text(EVIL)
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {"class_path": "evil_module.Network"}}))
    for arguments in (["--config", "evil.yaml"], ["--config=evil.yaml"]):
        with pytest.raises(SystemExit):
            main(["fit", *arguments])
        assert "evil.yaml names code that would be imported" in capsys.readouterr().err
        assert not Path("run").exists()
    monkeypatch.setenv(ALLOW, "0")  # put back what main sets
    with pytest.raises(SystemExit):
        main(["fit", "--allow_code", "--config", "evil.yaml"])
    assert Path("run").exists()  # the parser imported it, and found no task


def test_a_run_from_elsewhere_is_checked_before_it_is_restored(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    stored["model"]["init_args"]["network"]["class_path"] = "evil_module.Network"
    config.write_text(yaml.safe_dump(stored))
    with pytest.raises(ConfigError, match="names code"):
        lcpdn_pl.load(run / "last.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", str(run / "last.ckpt")])
    assert "config.yaml names code" in capsys.readouterr().err
