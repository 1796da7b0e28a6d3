"""The shipped configurations parse, compose and say what they promise."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcpdn_pl.cli import main
from lcpdn_pl.commands.grid import Cell, read_grid
from lcpdn_pl.data import MoNuSeg, MosMedPlus, QaTaCOV19
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.models import NETWORKS

CONFIGS = Path(__file__).parents[1] / "configs"
FULL = ["demo", "monuseg", "qata_cov19", "mosmed_plus"]
FLOORS = ("pixels", "unet")
OVERLAYS = sorted(path.stem for path in CONFIGS.glob("methods/*.yaml"))
PUBLISHED = [name for name in OVERLAYS if name not in FLOORS]


Config = dict[str, dict[str, dict[str, object]]]


def parsed(capsys: pytest.CaptureFixture[str], *names: str) -> Config:
    arguments = [f"--config={CONFIGS / name}.yaml" for name in names]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments, "--print_config"])
    assert stopped.value.code == 0
    config: Config = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize(
    "names", [("demo",), *((name, "recipes/paper") for name in FULL if name != "demo")]
)
def test_the_paper_s_recipe(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = parsed(capsys, *names)
    model, trainer = config["model"]["init_args"], config["trainer"]
    demo: dict[str, Any] = parsed(capsys, "demo")
    defaults = demo["model"]["init_args"]["network"]
    assert model["network"]["class_path"] == "lcpdn_pl.models.LCPDN"
    blocks = [6, 8, 12, 16] if names == ("demo",) else [4, 6, 8, 12]
    assert model["network"]["init_args"] == defaults["init_args"] | {"blocks": blocks}
    assert model["network"]["init_args"]["steps"] == [50, 150, 250]
    assert model["loss"] == {
        "class_path": "lcpdn_pl.losses.DiceCELoss",
        "init_args": {"dice_weight": 1.5, "compat": False},
    }
    assert model["optimizer"]["class_path"] == "torch.optim.Adam"
    assert model["lr_scheduler"] is None
    assert model["calibrate"] is False
    if names != ("demo",):
        assert model["optimizer"]["init_args"]["lr"] == 1e-4
        assert (trainer["max_epochs"], trainer["callbacks"]) == (50, None)


@pytest.mark.parametrize("name", [name for name in FULL if name != "demo"])
def test_the_rate_falls_to_nothing_over_the_run(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = parsed(capsys, name)
    schedule = config["model"]["init_args"]["lr_scheduler"]
    assert schedule["class_path"] == "torch.optim.lr_scheduler.CosineAnnealingLR"
    assert schedule["init_args"]["T_max"] == config["trainer"]["max_epochs"]
    (average,) = config["trainer"]["callbacks"]
    assert average["class_path"] == "lightning.pytorch.callbacks.EMAWeightAveraging"


@pytest.mark.parametrize(
    ("row", "cprfl", "ltfr"),
    [("none", False, False), ("cprfl", True, False), ("ltfr", False, True), ("full", True, True)],
)
def test_ablations_change_their_toggles_alone(
    row: str, cprfl: bool, ltfr: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = parsed(capsys, "qata_cov19")["model"]["init_args"]["network"]
    changed = parsed(capsys, "qata_cov19", f"ablations/{row}")["model"]["init_args"]["network"]
    assert isinstance(plain, dict)
    assert isinstance(changed, dict)
    assert changed["init_args"] == plain["init_args"] | {"cprfl": cprfl, "ltfr": ltfr}


def test_backbone_overlays_compose(capsys: pytest.CaptureFixture[str]) -> None:
    plain = parsed(capsys, "monuseg")
    assert parsed(capsys, "monuseg", "backbones/embedded") == plain
    paper = parsed(capsys, "monuseg", "backbones/paper")["model"]["init_args"]["network"]
    assert isinstance(paper, dict)
    assert paper["init_args"]["denoiser"] == "256x256_diffusion_uncond.pt"
    assert paper["init_args"]["blocks"] == [8, 11, 14]


@pytest.mark.parametrize(("name", "network"), [("pixels", "Pixels"), ("unet", "UNet")])
def test_floors_replace_the_network_and_the_rate_alone(
    name: str, network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, other = parsed(capsys, "monuseg"), parsed(capsys, "monuseg", f"methods/{name}")
    assert other["data"] == plain["data"]
    assert other["trainer"] == plain["trainer"]
    for part in ("loss", "lr_scheduler"):
        assert other["model"]["init_args"][part] == plain["model"]["init_args"][part]
    assert other["model"]["init_args"]["network"]["class_path"] == f"lcpdn_pl.models.{network}"  # type: ignore[index]
    assert name in NETWORKS


@pytest.mark.parametrize("data", ["monuseg", "qata_cov19", "mosmed_plus"])
def test_the_floor_reads_no_report(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that LCPDN and the U-Net share are not left from the file before."""
    config: dict[str, Any] = parsed(capsys, data, "methods/unet")
    assert config["model"]["init_args"]["network"]["init_args"] == {
        "widths": [32, 64, 128, 256, 512],
        "dropout": 0.2,
        "report_places": False,
    }


@pytest.mark.parametrize(
    ("name", "network", "batch", "rate"),
    [
        ("uctransnet", "UCTransNet", 4, 1e-3),
        ("lvit", "LViT", 2, 3e-4),
        ("c2fvl", "C2FVL", 4, 1e-3),
        ("reclmis", "RecLMIS", 32, 3e-4),
    ],
)
def test_the_family_of_lvit_has_its_recipe(
    name: str, network: str, batch: int, rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = parsed(capsys, "qata_cov19")["data"]["init_args"]
    config: dict[str, Any] = parsed(capsys, "qata_cov19", f"methods/{name}")
    model = config["model"]["init_args"]
    assert config["data"]["init_args"] == plain | {"image_size": 224, "batch_size": batch}
    assert model["network"]["class_path"] == f"lcpdn_pl.models.{network}"
    assert model["network"]["init_args"]["image_size"] == 224
    assert model["loss"]["class_path"] == "lcpdn_pl.losses.DiceBCELoss"
    assert model["loss"]["init_args"]["balanced"] == (name != "reclmis")
    weight = 2.5 if name == "reclmis" else 0.5
    assert model["loss"]["init_args"]["dice_weight"] == weight
    assert model["loss"]["init_args"]["bce_weight"] == weight
    assert model["optimizer"]["init_args"]["lr"] == rate
    (stop,) = config["trainer"]["callbacks"]
    assert stop["class_path"] == "lightning.pytorch.callbacks.EarlyStopping"
    settings = stop["init_args"]
    patience = 100 if name == "reclmis" else 50
    assert (settings["monitor"], settings["mode"]) == ("val/dice", "max")
    assert (settings["patience"], settings["min_delta"]) == (patience, 0)
    schedule = model["lr_scheduler"]
    assert schedule["class_path"].endswith("CosineAnnealingWarmRestarts")
    assert (schedule["init_args"]["T_0"], schedule["init_args"]["eta_min"]) == (10, 1e-4)


def test_textdiff_has_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = parsed(capsys, "monuseg", "methods/textdiff")
    model = config["model"]["init_args"]
    assert model["network"]["class_path"] == "lcpdn_pl.models.TextDiff"
    assert model["network"]["init_args"]["steps"] == [50, 150, 250]
    assert model["network"]["init_args"]["blocks"] == [6, 8, 12, 16]  # LCPDN's are others here
    assert model["loss"]["init_args"] == {"dice_weight": 1.5, "compat": False}
    assert model["optimizer"]["init_args"]["lr"] == 1e-4
    assert model["lr_scheduler"] is None
    assert config["trainer"]["callbacks"] is None


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_floors_alone_share_lcpdn_s_choice_of_a_threshold(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parsed(capsys, "monuseg")["model"]["init_args"]["calibrate"] is True
    config = parsed(capsys, "monuseg", f"methods/{name}")
    assert config["model"]["init_args"]["calibrate"] is (name in FLOORS)


@pytest.mark.parametrize("name", ["", *OVERLAYS])
def test_the_budget_changes_nothing_but_how_long(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("monuseg", *([f"methods/{name}"] if name else []))
    plain: dict[str, Any] = parsed(capsys, *names)
    config: dict[str, Any] = parsed(capsys, *names, "budget")
    precise = {"class_path": "lcpdn_pl.callbacks.PreciseBatchNorm", "init_args": {"batches": 20}}
    assert config["trainer"] == plain["trainer"] | {
        "max_epochs": -1,
        "max_steps": 1000,
        "check_val_every_n_epoch": None,
        "val_check_interval": 100,
        "callbacks": [precise],
    }
    assert {**config, "trainer": None} == {**plain, "trainer": None}


def test_mgcc_has_its_recipe_and_a_pool(capsys: pytest.CaptureFixture[str]) -> None:
    plain = parsed(capsys, "monuseg")
    config: dict[str, Any] = parsed(capsys, "monuseg", "methods/mgcc")
    data = plain["data"]["init_args"]
    assert config["data"]["init_args"] == data | {"batch_size": 4, "unlabelled": "rest"}
    assert config["model"]["class_path"] == "lcpdn_pl.tasks.ConsistencyTask"
    model = config["model"]["init_args"]
    assert model["network"]["class_path"] == "lcpdn_pl.models.MGCC"
    weights = {"dice_weight": 1.0, "bce_weight": 0.5, "balanced": False, "squared": False}
    assert model["loss"]["init_args"] == weights | {"eps": 1e-5}
    optimizer = model["optimizer"]["init_args"]
    assert [optimizer[key] for key in ("lr", "momentum", "weight_decay")] == [0.01, 0.9, 1e-4]
    schedule = model["lr_scheduler"]["init_args"]
    assert schedule["power"] == 0.9
    assert schedule["total_iters"] == config["trainer"]["max_epochs"]
    assert (model["consistency"], model["ramp_share"]) == (7.0, 1.5)


@pytest.mark.parametrize(
    ("name", "width", "size", "batch", "rate", "steps", "decay"),
    [
        ("medsegdiff", 128, 256, 8, 1e-4, 100_000, 0.9999),
        ("medsegdiff_small", 32, 128, 4, 5e-4, 2000, 0.99),
    ],
)
@pytest.mark.parametrize("data", ["monuseg", "qata_cov19"])
def test_medsegdiff_has_its_recipe(
    data: str,
    name: str,
    width: int,
    size: int,
    batch: int,
    rate: float,
    steps: int,
    decay: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = parsed(capsys, data)["data"]["init_args"]
    config: dict[str, Any] = parsed(capsys, data, f"methods/{name}")
    assert config["data"]["init_args"] == plain | {"image_size": size, "batch_size": batch}
    trainer = config["trainer"]
    assert (trainer["max_steps"], trainer["max_epochs"]) == (steps, -1)
    assert trainer["check_val_every_n_epoch"] is None
    assert steps % trainer["val_check_interval"] == 0
    (averaging,) = trainer["callbacks"]
    assert averaging["init_args"]["decay"] == decay
    assert config["model"]["class_path"] == "lcpdn_pl.tasks.DiffusionSegmentationTask"
    model = config["model"]["init_args"]
    assert model["network"]["class_path"] == "lcpdn_pl.models.MedSegDiff"
    assert model["network"]["init_args"]["width"] == width
    brier = {"class_path": "lcpdn_pl.losses.BrierLoss", "init_args": {"weight": 10.0}}
    assert model["loss"] == brier
    assert model["optimizer"]["class_path"] == "torch.optim.AdamW"
    optimizer = model["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (rate, 0)
    assert model["lr_scheduler"] is None


def test_paper_backbones_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCPDN_WEIGHTS", str(tmp_path))
    names = ("demo", "backbones/paper")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *(f"--config={CONFIGS / name}.yaml" for name in names)])
    assert stopped.value.code == 1
    assert "256x256_diffusion_uncond.pt does not exist" in capsys.readouterr().err


def names_of_tests(protocols: Iterable[str]) -> set[str]:
    tables = map(read_protocol, protocols)
    return {name for table in tables for name in table.loc[table["split"] == "test", "name"]}


def test_pretraining_learns_from_no_test_image(capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = parsed(capsys, "pretrain/medical_small")
    assert config["model"]["class_path"] == "lcpdn_pl.tasks.DenoisingTask"
    assert config["model"]["init_args"]["denoiser"] == "lcpdn-ddpm-small:random"
    assert config["data"]["class_path"] == "lcpdn_pl.data.ImagePool"
    data = config["data"]["init_args"]
    assert data["name"] == "medical"
    sources = {source["path"]: source for source in data["sources"]}
    modules = {module.folder: module for module in (MoNuSeg, QaTaCOV19, MosMedPlus)}
    assert sources.keys() == modules.keys()
    for folder, module in modules.items():
        every = names_of_tests(module.protocols.values())
        assert len(every) >= 14
        assert names_of_tests(sources[folder]["protocols"]) == every
        # Only tissue has no up and down.
        assert sources[folder]["turns"] == (module is MoNuSeg)


def fit_config(cell: Cell, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *cell.fit, "--print_config"])
    assert stopped.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def assert_ends_validated(config: dict[str, Any], name: str) -> None:
    """A run can start, validates its last weights, and brings its rate down to its end."""
    trainer, model = config["trainer"], config["model"]["init_args"]
    interval, every = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    if isinstance(interval, int):
        assert every is None or interval <= batches(config), name
        assert trainer["max_steps"] % interval == 0, name
    elif trainer["max_time"] is None:
        assert trainer["max_epochs"] % every == 0, name
    if config["model"]["class_path"].endswith("ConsistencyTask"):
        epochs = trainer["max_epochs"]
        if epochs == -1:
            epochs = math.ceil(trainer["max_steps"] / batches(config))
        assert model["lr_scheduler"]["init_args"]["total_iters"] == epochs, name


def batches(config: dict[str, Any]) -> int:
    """Of an epoch."""
    modules = {module.__name__: module for module in (MoNuSeg, QaTaCOV19, MosMedPlus)}
    module = modules[config["data"]["class_path"].rpartition(".")[2]]
    data = config["data"]["init_args"]
    table = read_protocol(module.protocols[data["protocol"]])
    size: int = data["batch_size"]
    count = math.ceil(list(table["split"]).count("train") / size)
    limit = config["trainer"]["limit_train_batches"]
    return min(count, limit) if isinstance(limit, int) else count


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("benchmark/*.yaml")), ids=lambda p: p.stem)
def test_cells_of_grids_parse(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    cells = read_grid(path)
    assert len({tuple(cell.fit) for cell in cells}) == len(cells)
    by_label = {label: cell for cell in cells for label in cell.name.split("/")}
    for cell in {id(cell): cell for cell in by_label.values()}.values():  # every label once
        assert_ends_validated(fit_config(cell, capsys), cell.name)


def test_methods_of_table1_have_the_recipe_of_their_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    cells = {cell.name: cell for cell in read_grid(CONFIGS / "benchmark" / "table1.yaml")}
    folders = ("monuseg", "qata_cov19", "mosmed_plus_mixed", "mosmed_plus_by_volume")
    methods = {"lcpdn", *FLOORS, *PUBLISHED} - {"medsegdiff_small"}
    wanted = {f"{folder}/{method}/0" for folder in folders for method in methods}
    assert cells.keys() == wanted - {"monuseg/c2fvl/0"}

    def model(name: str) -> dict[str, Any]:
        config = fit_config(cells[f"{name}/0"], capsys)
        assert_ends_validated(config, name)
        settings: dict[str, Any] = config["model"]["init_args"]
        return settings | {"batch_size": config["data"]["init_args"]["batch_size"]}

    for method in ("mgcc", "medsegdiff"):
        model(f"monuseg/{method}")
    blocks = [
        model(f"{folder}/textdiff")["network"]["init_args"]["blocks"] for folder in folders[:3]
    ]
    assert blocks == [[6, 8, 12, 16], [4, 6, 8, 12], [4, 6, 8, 12]]
    rates = [model(f"{folder}/lvit")["optimizer"]["init_args"]["lr"] for folder in folders[:2]]
    assert rates == [1e-3, 3e-4]
    keys = ("max_tokens", "layers", "hidden_patches", "score_dropout")
    found = {}
    for folder in folders[:3]:
        settings = model(f"{folder}/reclmis")
        network, schedule = settings["network"]["init_args"], settings["lr_scheduler"]
        found[folder] = (
            *(settings["batch_size"], settings["optimizer"]["init_args"]["lr"]),
            *(schedule["class_path"].rpartition(".")[2], *(network[key] for key in keys)),
        )
    assert found == {
        "monuseg": (5, 1e-3, "CosineAnnealingWarmRestarts", 10, 3, 0.5, 0.5),
        "qata_cov19": (5, 3e-4, "CosineAnnealingWarmRestarts", 24, 4, 0.5, 0.0),
        "mosmed_plus_mixed": (5, 3e-4, "ExponentialLR", 24, 3, 0.3, 0.5),
    }
