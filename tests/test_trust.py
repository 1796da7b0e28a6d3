"""Configurations that name code."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

import lcpdn_pl
from lcpdn_pl.cli import main
from lcpdn_pl.errors import CheckpointError, ConfigError
from lcpdn_pl.trust import ALLOW, refuse_foreign_arguments, refuse_foreign_code, restrict_imports
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


# Code of packages that are trusted, in files that name no other


class Unpickled:
    """Makes the folder ``ran`` where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path("ran").mkdir, ()  # type: ignore[return-value]


HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"
LOADS = {"f": "evil.pt", "weights_only": False}
RUNS: dict[str, dict[str, Any]] = {
    "process": {
        "class_path": HANDLER,
        "init_args": {
            **{"entrypoint": "/bin/sh", "args": ["-c", "mkdir ran"], "env": {}, "stdout": None},
            **{"stderr": None, "local_rank_id": 0, "numa_options": None},
        },
    },
    "pickle": {"class_path": "torch.load", "init_args": LOADS},
    "pickle by another name": {"class_path": "torch.optim.adam.torch.load", "init_args": LOADS},
    "file": {
        "class_path": "lcpdn_pl.files.write_whole",
        "init_args": {"path": "ran", "content": "x"},
    },
    "command": {
        "class_path": "lcpdn_pl.cli.main",
        "init_args": {"args": ["fit", "--model", "evil_module.Network"]},
    },
    "trust": {
        "class_path": "lcpdn_pl.trust.restrict_imports",
        "init_args": {"arguments": ["evil_module.Network"]},
    },
}
METHODS = (
    "lightning.pytorch.callbacks.ModelCheckpoint.to_yaml",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint.to_yaml",
    "lcpdn_pl.tasks.SegmentationTask.load_from_checkpoint",
    "lcpdn_pl.models.create",
    "torch.optim.Adam.load_state_dict",
    "torch.optim.Adam.__init__",
    "torch.optim.Adam.mro",
)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What code leaves that runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ALLOW, raising=False)
    restrict_imports([])
    Path("evil.pt").write_bytes(pickle.dumps(Unpickled()))
    yield tmp_path / "ran"
    restrict_imports([])


def settings(where: str, what: dict[str, Any]) -> dict[str, Any]:
    """A configuration of a run that names something where anything, or a function, may stand."""
    network: dict[str, Any] = {"class_path": "Pixels"}
    task: dict[str, Any] = {"network": network}
    trainer: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1}
    if where == "strategy":
        strategy = "lightning.pytorch.strategies.DDPStrategy"
        trainer |= {"strategy": {"class_path": strategy, "init_args": {"ddp_comm_state": what}}}
    elif where == "callback":
        callback = "lightning.pytorch.callbacks.LambdaCallback"
        trainer |= {"callbacks": [{"class_path": callback, "init_args": {"on_fit_start": what}}]}
    elif where == "logger":
        logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger"}
        trainer |= {"logger": logger | {"init_args": {"save_dir": "."}, "dict_kwargs": {"x": what}}}
    elif where == "lr_scheduler":
        schedule = "torch.optim.lr_scheduler.LambdaLR"
        task |= {where: {"class_path": schedule, "init_args": {"lr_lambda": what}}}
    else:
        network |= {"class_path": "LCPDN", "init_args": {"denoiser_options": {"x": what}}}
    return {
        "model": {"class_path": "SegmentationTask", "init_args": task},
        "data": {"class_path": "Phantom"},
        "trainer": trainer,
    }


@pytest.mark.parametrize("what", RUNS)
@pytest.mark.parametrize("where", ["strategy", "callback", "logger", "lr_scheduler", "network"])
def test_code_of_trusted_packages_is_refused(where: str, what: str, ran: Path) -> None:
    path = ran.with_name("run.yaml")
    path.write_text(yaml.safe_dump(settings(where, RUNS[what])))
    with pytest.raises(ConfigError, match=f"run: {RUNS[what]['class_path']}. Expected classes of"):
        refuse_foreign_code(path)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *((Any, name) for name in ("process", "file")),
        *((kind, "process") for kind in (dict[str, Any], object)),
        *((Callable, name) for name in ("pickle", "pickle by another name", "file")),
    ],
)
def test_what_is_named_in_a_setting_is_not_called(kind: Any, what: str, ran: Path) -> None:
    # Of a file that a configuration names, which is not looked into before it is parsed.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--setting", type=kind)
    value = {"x": RUNS[what]} if kind == dict[str, Any] else RUNS[what]
    with suppress(ArgumentError):
        built = parser.instantiate_classes(parser.parse_object({"setting": value})).setting
        handler: Any = built.get("x") if isinstance(built, dict) else built
        with suppress(AttributeError):
            handler.proc.wait()
    assert not ran.exists()


@pytest.mark.parametrize("name", [*METHODS, *(what["class_path"] for what in RUNS.values())])
def test_functions_and_methods_are_not_imported(name: str, ran: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--setting", type=Callable)
    assert ran.parent.is_dir()
    with pytest.raises(ArgumentError, match=f"Importing '{name}' is not allowed"):
        parser.parse_object({"setting": name})


@pytest.mark.parametrize("where", ["strategy", "callback", "logger", "lr_scheduler"])
def test_a_configuration_writes_no_file(where: str, ran: Path) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(settings(where, RUNS["file"])))
    with pytest.raises(SystemExit):
        main(["fit", "--config", "run.yaml", "--run_folder", "new", "--data.counts=[0,0,0]"])
    assert not ran.exists()


@pytest.mark.parametrize("what", ["process", "pickle", "pickle by another name", "file"])
def test_the_configuration_beside_a_checkpoint_runs_no_code(what: str, ran: Path) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(settings("network", RUNS[what])))
    Path("best.ckpt").touch()
    with pytest.raises((ConfigError, CheckpointError), match="names code"):
        lcpdn_pl.load("best.ckpt")
    assert not ran.exists()


def test_what_the_command_line_names_frees_no_more(ran: Path) -> None:
    path = ran.with_name("run.yaml")
    path.write_text(yaml.safe_dump({"model": {"init_args": {"loss": "torch.nn.BCELoss"}}}))
    for named in ("--model.optimizer=torch.optim.Adam", "--model.optimizer=torch.nn.Module"):
        restrict_imports([named])
        with pytest.raises(ConfigError, match=r"imported and run: torch\.nn\.BCELoss\. Expected"):
            refuse_foreign_code(path)
    restrict_imports(["--model.loss=torch.nn.BCELoss"])
    refuse_foreign_code(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--setting", type=type)
    parser.parse_object({"setting": "torch.nn.BCELoss"})  # it lies in torch.nn.modules.loss
    with pytest.raises(ArgumentError, match=r"Importing 'torch\.nn\.MSELoss' is not allowed"):
        parser.parse_object({"setting": "torch.nn.MSELoss"})
    restrict_imports(["--x=jsonargparse.set_parsing_settings", "--x=²a.b", "--x=torch.gone"])


def test_the_arguments_of_a_grid_name_classes_alone(ran: Path) -> None:
    refuse_foreign_arguments(ran, ["--model.optimizer=torch.optim.SGD"])
    with pytest.raises(ConfigError, match=r"imported and run: torch\.load\. Expected"):
        refuse_foreign_arguments(ran, ["--trainer.callbacks.on_fit_start=torch.load"])
