"""The command line, in process, on tiny trees and a tiny network."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import UNet2DModel
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils._pytree import tree_flatten

import lcpdn_pl
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.cli import _precision, main
from lcpdn_pl.plotting import load_panels
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import DenoisingTask
from tests.conftest import TreeMaker, interruptible, write_images

TINY = Path(__file__).parent / "configs" / "tiny.yaml"
TINY_PRETRAIN = TINY.with_name("tiny_pretrain.yaml")


@pytest.fixture
def tiny(
    tiny_denoiser: str, tiny_bert: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[str]:
    """Arguments of a fit with a tiny network; runs go to an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return [
        "--config",
        str(TINY),
        f"--model.network.denoiser={tiny_denoiser}",
        f"--model.network.text_encoder={tiny_bert}",
    ]


@pytest.fixture
def monuseg(make_tree: TreeMaker, tmp_path: Path) -> list[str]:
    """Arguments of a tiny MoNuSeg."""
    root = make_tree(tmp_path / "tree")
    return [
        "--data=MoNuSeg",
        f"--data.root={root}",
        "--data.protocol=full",
        "--data.image_size=16",
    ]


@pytest.fixture
def pretrain(tiny_denoiser: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Arguments of a pretraining on 20 images; runs go to an empty working directory."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 20)
    return [
        "fit",
        "--config",
        str(TINY_PRETRAIN),
        f"--model.denoiser={tiny_denoiser}",
        "--pretraining_report.samples=2",
        "--pretraining_report.side=16",
        "--data.sources=[{path: photos, turns: true}]",
    ]


def run_folder() -> Path:
    (config,) = Path("runs").glob("*/*/*/config.yaml")
    return config.parent


def hparams_of(run: Path) -> dict[str, Any]:
    """Settings of a run in TensorBoard's HParams tab; its figures are those of the test."""
    events = EventAccumulator(str(run))
    events.Reload()
    parts = {
        name: HParamsPluginData.FromString(
            events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
        )
        for name in ("session_start_info", "experiment")
    }
    shown = {info.name.tag for info in parts["experiment"].experiment.metric_infos}
    (test,) = [file.parent for file in run.glob("test/*/metrics.csv") if "empty" not in str(file)]
    metrics = pd.read_csv(test / "metrics.csv").set_index("mask rule") / 100
    wanted = {
        f"test/{rule}/{name}": metrics.loc[rule, name]
        for rule in ("compat", "native")
        for name in ("dice", "iou", "dice_global", "iou_global")
    }
    assert shown == wanted.keys()
    # The tab shows the last value of each: those of a test with other reports are not there.
    for name, value in wanted.items():
        found = {event.value for event in events.Scalars(name)}
        assert list(found) == pytest.approx([value])
    session = parts["session_start_info"].session_start_info
    values = {name: value.WhichOneof("kind") for name, value in session.hparams.items()}
    return {name: getattr(session.hparams[name], kind) for name, kind in values.items() if kind}


def test_fit_test_predict_of_each_data_module(
    tiny: list[str], make_tree: TreeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, mosmed = make_tree(tmp_path / "plain"), make_tree(tmp_path / "mosmed", values=(0, 127))
    qata = make_tree(tmp_path / "qata", mask_prefix="mask_")
    rows = [
        (
            f"plain/{s.title()}_Folder/img/{s}_{i}.png",
            f"plain/{s.title()}_Folder/labelcol/{s}_{i}.png",
            "Round.",
            s,
        )
        for s in ("train", "val", "test")
        for i in range(2)
    ]
    table = pd.DataFrame(rows, columns=["image", "mask", "text", "split"])
    table.to_csv(tmp_path / "clinic.csv", index=False)
    data = {
        "monuseg": ["MoNuSeg", f"--data.root={plain}", "--data.protocol=full"],
        "qata_cov19": ["QaTaCOV19", f"--data.root={qata}", "--data.protocol=full"],
        "mosmed_plus": ["MosMedPlus", f"--data.root={mosmed}", "--data.protocol=full"],
        "clinic": ["Manifest", f"--data.root={tmp_path / 'clinic.csv'}"],
        "phantom": ["Phantom", f"--data.root={tmp_path / 'drawn'}", "--data.counts=[3,3,3]"],
    }
    for name, (module, *arguments) in data.items():
        size = 32 if name == "phantom" else 16
        main(
            [
                "fit",
                *tiny,
                "--trainer.max_epochs=1",
                f"--data={module}",
                *arguments,
                f"--data.image_size={size}",
            ]
        )
        (run,) = Path("runs", name, "lcpdn").iterdir()
        printed = capsys.readouterr().out
        assert f"lcpdn test --ckpt_path {run}/best.ckpt" in printed
        main(["test", "--ckpt_path", str(run / "best.ckpt")])
        assert "dice_global" in capsys.readouterr().out
        results = pd.read_csv(run / "test" / name / "per_image.csv")
        metrics = pd.read_csv(run / "test" / name / "metrics.csv").set_index("mask rule")
        assert len(results) == (2 if name == "clinic" else 3)
        for rule in ("compat", "native"):
            assert metrics.loc[rule, "dice"] == pytest.approx(
                100 * results[f"{rule}/dice"].mean(), abs=1e-3
            )
            assert metrics.loc[rule, "iou"] == pytest.approx(
                100 * results[f"{rule}/iou"].mean(), abs=1e-3
            )
        assert (run / "test" / name / "metrics.md").read_text().count("pretrained") == 3
        facts = json.loads((run / "test" / name / "facts.json").read_text())
        assert (facts["method"], facts["data"], facts["test_reports"]) == ("lcpdn", name, "right")
        assert facts["best_step"] == (2 if name == "clinic" else 3 if name == "phantom" else 4)
        assert 0 < facts["seconds_per_image"] < 60
        assert 0.1 < facts["peak_memory_gib"] < 60
        main(["test", "--ckpt_path", str(run / "best.ckpt"), "--data.test_reports=empty"])
        found = hparams_of(run)
        assert found["model.network"] == "LCPDN"
        assert (found["data"], found["trainer.max_epochs"]) == (module, 1)
        assert found["model.network.ltfr"] == 1  # written as a number
        shown = load_panels(run / "test" / name / "panels.npz")
        assert [panel.name for panel in shown] == [str(image) for image in results["name"]]
        main(["predict", "--ckpt_path", str(run / "best.ckpt")])
        own_size = 32 if name == "phantom" else 40
        for image in results["name"]:
            mask = np.asarray(Image.open(run / "predict" / name / f"{image}.png"))
            assert mask.shape == (own_size, own_size)
            assert set(np.unique(mask)) <= {0, 255}
        assert (run / "predict" / name / "sheet" / "overlay.png").stat().st_size > 1000


def test_a_run_with_images_without_masks_says_so_and_is_restored_without_them(
    tiny: list[str], monuseg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write_images(tmp_path / "pool", 3)
    model = "{class_path: MGCC, init_args: {width: 4, levels: 3, depth: 1, kernel: 3}}"
    settings = ["--model=ConsistencyTask", f"--model.network={model}", "--trainer.max_epochs=1"]
    main(["fit", *tiny[:2], *settings, *monuseg, f"--data.unlabelled={pool}"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "monuseg: 4 train, 2 val, 3 test, 3 unlabelled" in printed
    shutil.rmtree(pool)
    assert run_folder().parent.name == "mgcc"
    main(["test", "--ckpt_path", str(run_folder() / "best.ckpt")])
    assert "monuseg: 4 train, 2 val, 3 test" in capsys.readouterr().out


def test_run_folder_holds_curves_sheets_and_small_checkpoints(
    tiny: list[str], monuseg: list[str]
) -> None:
    main(["fit", *tiny, *monuseg])
    run = run_folder()
    events = EventAccumulator(str(run))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    for stage in ("train", "val"):
        assert {f"{stage}/{name}" for name in ("loss", "ce", "dice_loss", "dice", "iou")} <= scalars
    assert "lr" in scalars
    assert "val/overlay" in events.Tags()["images"]
    assert re.fullmatch(r"runs/monuseg/lcpdn/\d{8}-\d{6}-\d{6}", str(run))
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    assert not [k for k in checkpoint["state_dict"] if "encoder" in k or "features" in k]
    assert set(checkpoint["backbones"]) == {"features", "text_encoder", "image_encoder"}
    best = max(events.Scalars("val/dice"), key=lambda scalar: scalar.value).value
    assert checkpoint["callbacks"]  # the checkpoint rule's own record
    scores = [
        v["best_model_score"] for k, v in checkpoint["callbacks"].items() if "Checkpoint" in k
    ]
    assert scores[0].item() == pytest.approx(best)


def test_same_seed_same_weights_and_resume_ends_alike(tiny: list[str], monuseg: list[str]) -> None:
    main(["fit", *tiny, *monuseg, "--trainer.default_root_dir=a"])
    main(["fit", *tiny, *monuseg, "--trainer.default_root_dir=b", "--trainer.max_epochs=1"])
    (first,), (second,) = Path("a").glob("*/*/*"), Path("b").glob("*/*/*")
    main(["fit", "--ckpt_path", str(second / "last.ckpt"), "--trainer.max_epochs=2"])
    assert list(Path("b").glob("*/*/*")) == [second]  # it went on in its own folder
    whole = torch.load(first / "last.ckpt", weights_only=True)["state_dict"]
    resumed = torch.load(second / "last.ckpt", weights_only=True)["state_dict"]
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)


def test_averaged_weights_are_scored_stored_and_resumed(
    tiny: list[str], monuseg: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    averaged = [
        *("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"),
        *("--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--trainer.log_every_n_steps=1"),
    ]
    fit = ["fit", *tiny, *monuseg, *averaged]
    main([*fit, "--trainer.default_root_dir=a"])
    main([*fit, "--trainer.default_root_dir=b", "--trainer.max_epochs=1"])
    (first,), (second,) = Path("a").glob("*/*/*"), Path("b").glob("*/*/*")
    main(["fit", "--ckpt_path", str(second / "last.ckpt"), "--trainer.max_epochs=2"])
    whole = torch.load(first / "last.ckpt", weights_only=True)
    resumed = torch.load(second / "last.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert whole[part].keys() == resumed[part].keys()
        for key, value in whole[part].items():
            torch.testing.assert_close(resumed[part][key], value, rtol=0, atol=0)
    key = "network.head.classify.0.weight"
    assert not torch.equal(whole["state_dict"][key], whole["current_model_state"][key])
    restored, _ = restore(first / "last.ckpt")
    assert torch.equal(restored.state_dict()[key], whole["state_dict"][key])
    main(["test", "--ckpt_path", str(first / "best.ckpt")])
    assert "WeightAveraging" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        ("check_val_every_n_epoch=3",),
        ("max_steps=2",),
        ("max_steps=6", "val_check_interval=7", "check_val_every_n_epoch=null"),
    ],
)
def test_a_run_that_would_leave_no_checkpoint_is_refused(
    tiny: list[str],
    monuseg: list[str],
    settings: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *tiny, *monuseg, *(f"--trainer.{setting}" for setting in settings)])
    assert re.search(
        r"The run has \d+ steps, but validation, .* first comes after \d+\.",
        capsys.readouterr().err,
    )


def test_one_callback_needs_no_list(tiny: list[str], monuseg: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    main(["fit", *tiny, *monuseg, "--trainer.callbacks=PreciseBatchNorm", f"--run_folder={folder}"])
    assert (folder / "best.ckpt").is_file()


def test_a_configuration_before_the_subcommand_hides_no_checkpoint(
    tiny: list[str], monuseg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *tiny, *monuseg, "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump({"test": settings}))
    with pytest.raises(SystemExit):
        main(["--config", str(path), "test"])
    assert "expected the subcommand as the first word" in capsys.readouterr().err


def test_images_without_masks_are_refused_by_a_task_that_does_not_learn_from_them(
    tiny: list[str], monuseg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write_images(tmp_path / "pool", 3)
    with pytest.raises(SystemExit):
        main(["fit", *tiny, *monuseg, f"--data.unlabelled={pool}"])
    assert "data.unlabelled is set, but SegmentationTask learns" in capsys.readouterr().err


def test_data_of_the_checkpoint_come_back_and_other_data_can_be_tested(
    tiny: list[str], monuseg: list[str], make_tree: TreeMaker, tmp_path: Path
) -> None:
    main(["fit", *tiny, *monuseg, "--trainer.max_epochs=1"])
    checkpoint = str(run_folder() / "best.ckpt")
    main(["test", "--ckpt_path", checkpoint, "--data.test_reports=shuffled"])
    assert (run_folder() / "test" / "monuseg_shuffled" / "per_image.csv").is_file()
    other = make_tree(tmp_path / "other", counts=(1, 1, 2))
    main(
        [
            "test",
            "--ckpt_path",
            checkpoint,
            "--data=QaTaCOV19",
            f"--data.root={other}",
            "--data.protocol=full",
        ]
    )
    assert len(pd.read_csv(run_folder() / "test" / "qata_cov19" / "per_image.csv")) == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.network.width=4", "width: the checkpoint has 8, the arguments say 4"),
        ("--model.network.ltfr=false", "ltfr: the checkpoint has True, the arguments say False"),
        ("--data.image_size=32", "image_size: the checkpoint has 16, the arguments say 32"),
        ("--data.mask_rule=native", "mask_rule: the checkpoint has 'compat'"),
        ("--seed_everything=7", "seed_everything: the checkpoint has 0, the arguments say 7"),
        ("--data=QaTaCOV19", "data.class_path: the checkpoint has 'lcpdn_pl.data.MoNuSeg'"),
        ("--run_folder=another", "run_folder is another, but what comes of a checkpoint goes into"),
        ("--trainer.default_root_dir=another", "trainer.default_root_dir is another, but what"),
        ("--trainer.limit_test_batches=1", "trainer.limit_test_batches is 1: lcpdn test takes all"),
        ("--trainer.limit_test_batches=0", "trainer.limit_test_batches is 0: lcpdn test takes all"),
        ("--trainer.fast_dev_run=true", "trainer.fast_dev_run is True: lcpdn test takes all"),
        ("--data.root=", "root is empty: expected a folder."),
    ],
)
def test_contradiction_is_an_error(
    tiny: list[str],
    monuseg: list[str],
    argument: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["fit", *tiny, *monuseg, "--trainer.max_epochs=1"])
    subcommand = "fit" if argument.startswith(("--seed", "--data=")) else "test"
    with pytest.raises(SystemExit) as stopped:
        main([subcommand, "--ckpt_path", str(run_folder() / "best.ckpt"), argument])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_pretraining_exports_a_denoiser_that_segmentation_takes(
    pretrain: list[str],
    tiny: list[str],
    monuseg: list[str],
    tiny_denoiser: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(pretrain)
    printed = capsys.readouterr().out
    run = run_folder()
    assert re.fullmatch(r"runs/tiny/ddpm/\d{8}-\d{6}-\d{6}", str(run))
    assert "tiny: 18 train, 2 val" in printed
    assert f"Best checkpoint: {run}/best.ckpt" in printed
    assert "lcpdn test" not in printed
    assert f"--model.network.denoiser={run}/denoiser" in printed

    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "ema.module."
    averaged = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    unet, pretrained = create_denoiser(str(run / "denoiser"))
    given, _ = create_denoiser(tiny_denoiser)
    assert pretrained
    assert unet.state_dict().keys() == averaged.keys()
    for key, value in unet.state_dict().items():
        assert torch.equal(value, averaged[key].half().float())
    assert (unet.conv_out.weight - given.conv_out.weight).abs().max() > 1e-3

    images = pd.read_csv(run / "denoiser" / "images.csv")
    assert len(images) == 20
    for name, found in zip(images["name"], images["pixels_sha256"], strict=True):
        pixels = np.asarray(Image.open(Path("photos", name)))
        assert found == hashlib.sha256(b"40x40" + pixels.tobytes()).hexdigest()
    held_out = images.loc[images["split"] == "val", "name"]
    assert held_out.tolist() == ["image_00.png", "image_19.png"]
    curve = pd.read_csv(run / "denoiser" / "curve.csv")
    assert curve["step"].tolist() == [3, 6]
    best = torch.load(run / "best.ckpt", weights_only=True)
    assert best["global_step"] == curve.set_index("step")["loss"].idxmin()

    for subcommand in ("test", "predict"):
        with pytest.raises(SystemExit):
            main([subcommand, "--ckpt_path", str(run / "best.ckpt")])
        assert f"lcpdn {subcommand} needs a segmentation run" in capsys.readouterr().err
    main(["validate", "--ckpt_path", str(run / "best.ckpt")])

    denoiser = f"--model.network.denoiser={run / 'denoiser'}"
    main(["fit", *tiny, *monuseg, denoiser, "--trainer.max_epochs=1"])
    assert list(Path("runs", "monuseg", "lcpdn").glob("*/best.ckpt"))


# Killed, it goes on from the end of an epoch, where it validates; stopped, within one.
@pytest.mark.parametrize(("stopped", "steps"), [(False, 6), (True, 8)])
def test_pretraining_that_was_ended_goes_on_exactly(
    stopped: bool, steps: int, pretrain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([*pretrain, "--trainer.default_root_dir=a", "--trainer.max_epochs=4"])
    step = DenoisingTask.training_step

    def ended(self: DenoisingTask, image: torch.Tensor, batch_index: int) -> torch.Tensor:
        if (self.current_epoch, batch_index) == (2, 1):
            if not stopped:
                raise RuntimeError("killed")
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, image, batch_index)

    monkeypatch.setattr(DenoisingTask, "training_step", ended)
    with interruptible(), pytest.raises(SystemExit if stopped else RuntimeError):
        main([*pretrain, "--trainer.default_root_dir=b", "--trainer.max_epochs=4"])
    monkeypatch.setattr(DenoisingTask, "training_step", step)
    (first,), (second,) = Path("a").glob("*/*/*"), Path("b").glob("*/*/*")
    assert torch.load(second / "last.ckpt", weights_only=True)["global_step"] == steps
    assert not (second / "denoiser").exists()
    main(["fit", "--ckpt_path", str(second / "last.ckpt")])
    assert list(Path("b").glob("*/*/*")) == [second]  # it went on in its own folder

    whole = torch.load(first / "last.ckpt", weights_only=True)
    resumed = torch.load(second / "last.ckpt", weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        (values, names), (expected, wanted_names) = map(tree_flatten, (resumed[part], whole[part]))
        assert names == wanted_names
        assert len(values) > 1
        for value, other in zip(values, expected, strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=0)
    assert whole["state_dict"]["ema.n_averaged"] == 12
    ours, theirs = second / "denoiser", first / "denoiser"
    weights = "diffusion_pytorch_model.safetensors"
    assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    curve, wanted = pd.read_csv(ours / "curve.csv"), pd.read_csv(theirs / "curve.csv")
    assert curve["step"].tolist() == [3, 6, 9, 12]
    assert curve["hours"].is_monotonic_increasing
    pd.testing.assert_frame_equal(
        curve.drop(columns="hours"), wanted.drop(columns="hours"), check_exact=True
    )


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_no_checkpoint_no_figures(
    tiny: list[str], monuseg: list[str], subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([subcommand, *tiny, *monuseg])
    assert (
        f"lcpdn {subcommand} needs a trained network: give --ckpt_path" in capsys.readouterr().err
    )


def test_missing_checkpoint_and_missing_config_are_named(
    tiny: list[str], monuseg: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "nowhere/best.ckpt"])
    assert "nowhere/best.ckpt does not exist" in capsys.readouterr().err
    main(["fit", *tiny, *monuseg, "--trainer.max_epochs=1"])
    shutil.copy(run_folder() / "best.ckpt", "alone.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "alone.ckpt"])
    assert "Move the whole run folder" in capsys.readouterr().err


def test_other_backbone_weights_are_noticed(
    tiny: list[str],
    monuseg: list[str],
    tiny_denoiser: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copied_denoiser"
    shutil.copytree(tiny_denoiser, copy)
    main(["fit", *tiny, *monuseg, "--trainer.max_epochs=1", f"--model.network.denoiser={copy}"])
    torch.manual_seed(1)
    UNet2DModel.from_config(UNet2DModel.load_config(copy)).save_pretrained(copy)
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", str(run_folder() / "best.ckpt")])
    assert "trained on other backbones" in capsys.readouterr().err


def test_validate_scores_the_checkpoint(
    tiny: list[str], monuseg: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *tiny, *monuseg, "--trainer.max_epochs=1"])
    main(["validate", "--ckpt_path", str(run_folder() / "best.ckpt")])
    assert "val/dice" in capsys.readouterr().out


def test_bad_data_is_one_message_without_traceback(
    tiny: list[str], monuseg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tree" / "Train_Folder" / "labelcol" / "train_0.png").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *tiny, *monuseg])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "train_0.png" in error
    assert "Traceback" not in error
    assert not list(Path("runs").glob("*/*/*/*.ckpt"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--trainer.val_check_interval=0", "trainer.val_check_interval is 0: expected more than 0"),
        ("--trainer.overfit_batches=1", "Take trainer.limit_train_batches instead."),
        ("--trainer.max_epochs=-5", "`max_epochs` must be a non-negative integer or -1"),
        ("--trainer.accelerator=foo", "accelerator_connector refuses a setting of the run"),
        ("--trainer.val_check_interval=100", "`val_check_interval` (100) must be less than or"),
        ("--trainer.callbacks=EMAWeightAveraging --trainer.callbacks.decay=7", "decay value 7.0"),
        ("--model.optimizer=Adam --model.optimizer.lr=-1", "Invalid learning rate: -1.0"),
        ("--model.lr_scheduler=StepLR --model.lr_scheduler.step_size=0", "torch.optim.lr_sched"),
        ("--model.empty_score=7", "ClosedUnitInterval: 7"),
        ("--data.batch_size=null", "data.batch_size must not be null."),
        ("--data.image_size=1", "Raise data.image_size or data.batch_size."),
        ("--seed_everything=-1", "-1 is not in bounds"),
        ("--run_folder=/dev/null/run", "/dev/null/run: Not a directory. Name another place."),
    ],
)
def test_a_setting_that_only_the_run_refuses_is_one_message(
    setting: str, message: str, monuseg: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = ["--model.network=Pixels", "--model.network.head_widths=[4,4]"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={TINY}", *pixels, *monuseg, *setting.split()])
    assert stopped.value.code in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_errors_of_the_users_own_code_keep_their_traceback(
    monuseg: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "their_network.py").write_text(
        "import torch\n"
        "from lcpdn_pl.models import Pixels\n"
        "class Theirs(Pixels):\n"
        "    def __init__(self):\n"
        "        super().__init__((4, 4))\n"
        "        self.drop = torch.nn.Dropout(7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        main(["fit", f"--config={TINY}", "--model.network=their_network.Theirs", *monuseg])


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, text in (("--version", lcpdn_pl.__version__), ("--help", "fit")):
        with pytest.raises(SystemExit) as stopped:
            main([argument])
        assert stopped.value.code == 0
        assert text in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help"])
    assert stopped.value.code == 0
    assert "--model" in capsys.readouterr().out


def test_half_weights_are_refused(
    tiny: list[str], monuseg: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *tiny, *monuseg, "--trainer.precision=bf16-true"])
    assert "trainer.precision is bf16-true: expected full weights" in capsys.readouterr().err


def test_precision_is_chosen_for_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _precision("auto") == "16-mixed"
    assert _precision("cpu") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _precision("auto") == "32-true"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_out_of_memory_names_what_to_lower(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("lcpdn_pl.cli._run_command", full)
    with pytest.raises(SystemExit) as stopped:
        main(["segment"])
    assert stopped.value.code == 1
    assert "out of memory. Lower data.batch_size" in capsys.readouterr().err


def test_a_later_process_takes_the_folder_that_was_chosen_for_it(
    tiny: list[str],
    monuseg: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.delenv("LCPDN_RUN_FOLDER", raising=False)
    with pytest.raises(SystemExit):
        main(["fit", *tiny, *monuseg])
    assert "cannot agree on a new run folder: give --run_folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [["segment", "\udcff.png"], ["fit", "--run_folder=runs/\udcff"], ["report", "a", "b\udcff"]],
)
def test_names_of_other_bytes_are_refused(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith(
        f"lcpdn: {args[-1].replace(chr(0xDCFF), '?')}: expected UTF-8, found other bytes"
    )


def test_one_batch_is_no_share_of_them() -> None:
    """Which of the two it is depends on what else was imported."""
    code = """
from inspect import unwrap
from typing import Union
from lightning.pytorch import Trainer
unwrap(Trainer.__init__).__annotations__["limit_train_batches"] = Union[float, int, None]
from lcpdn_pl.cli import main
main("fit --trainer.limit_train_batches 1 --trainer.limit_val_batches 0.5 --print_config".split())
"""
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    settings = yaml.safe_load(done.stdout)["trainer"]
    assert (settings["limit_val_batches"], repr(settings["limit_train_batches"])) == (0.5, "1")
