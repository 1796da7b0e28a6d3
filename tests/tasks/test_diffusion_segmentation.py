"""Training on noised masks: the loss written out, and a run from fit to predict."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks import sampling_steps
from torch import Tensor

import lcpdn_pl
from lcpdn_pl.backbones.diffusion import ALPHA_BAR
from lcpdn_pl.cli import main
from lcpdn_pl.data import MoNuSeg
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.losses import BrierLoss
from lcpdn_pl.models import MedSegDiff
from lcpdn_pl.models.medsegdiff.diffusion import variance_bound
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import DiffusionSegmentationTask
from tests.conftest import TreeMaker

TINY = "{class_path: MedSegDiff, init_args: {width: 8, steps: 2, ensemble: 3}}"


def tiny_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (2, 32, 32), generator=generator)
    mask[1, :8] = 255
    return {
        "image": torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1,
        "mask": mask,
        "text": ["", ""],
        "name": ["a", "b"],
    }


def test_terms_as_written_out() -> None:
    torch.manual_seed(0)
    task = DiffusionSegmentationTask(MedSegDiff(width=8, dropout=0.0))
    assert isinstance(task.loss, BrierLoss)
    network, batch = task.network, tiny_batch()
    torch.manual_seed(1)
    logits, terms = task.training_terms(batch)
    torch.manual_seed(1)
    noise = torch.randn(2, 1, 32, 32)
    timestep = torch.randint(1000, (2,))
    valid = batch["mask"] != 255
    mask = (batch["mask"] == 1).float().unsqueeze(1)
    rate = ALPHA_BAR[timestep].float().view(2, 1, 1, 1)
    noisy = rate.sqrt() * mask + (1 - rate).sqrt() * noise
    anchors, score = network.condition(batch["image"])
    predicted = network.denoise(batch["image"], anchors, noisy, timestep)
    error = (predicted[:, :1] - noise) ** 2
    bound = variance_bound(error, predicted[:, 1:], timestep)
    calibration = (torch.sigmoid(score) - mask) ** 2

    def mean(values: Tensor) -> float:
        return values[:, 0][valid].mean().item()

    assert terms["noise"].item() == pytest.approx(mean(error), rel=1e-4)
    assert terms["bound"].item() == pytest.approx(mean(bound), rel=1e-4)
    assert terms["brier"].item() == pytest.approx(mean(calibration), rel=1e-4)
    total = mean(error) + mean(bound) + 10 * mean(calibration)
    assert terms["loss"].item() == pytest.approx(total, rel=1e-4)
    assert set(terms) == {"loss", "brier", "noise", "bound"}
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1:], torch.sigmoid(score))


def test_the_bound_trains_the_variance_alone() -> None:
    torch.manual_seed(0)
    task = DiffusionSegmentationTask(MedSegDiff(width=8))
    _, terms = task.training_terms(tiny_batch())
    terms["bound"].backward()
    gradient = task.network.unet.conv_out.weight.grad
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


def test_a_run_draws_masks_and_says_how_sure_it_is(
    make_tree: TreeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_tree(tmp_path / "tree")
    data = [f"--data.root={root}", "--data.protocol=full", "--data.image_size=32"]
    model = ["--model=DiffusionSegmentationTask", f"--model.network={TINY}"]
    trainer = ["--trainer.max_epochs=1", "--trainer.callbacks+=EMAWeightAveraging"]
    main(["fit", *model, *trainer, "--data=MoNuSeg", *data, "--data.batch_size=4"])
    (run,) = Path("runs/monuseg/medsegdiff").iterdir()
    checkpoint = run / "best.ckpt"
    # As calibration leaves it: masks at one half are others.
    torch.save(torch.load(checkpoint, weights_only=True) | {"threshold": 0.25}, checkpoint)
    task, module = restore(checkpoint)
    assert isinstance(task, DiffusionSegmentationTask)
    assert task.threshold == 0.25
    assert isinstance(module, MoNuSeg)
    module.setup("test")
    batches = list(module.test_dataloader())
    ensembles = [task.network.sample(batch["image"]) for batch in batches]

    main(["test", "--ckpt_path", str(checkpoint)])
    table = pd.read_csv(run / "test" / "monuseg" / "per_image.csv")
    agreement = [ensemble.agreement.mean().item() for ensemble in ensembles]
    assert table["agreement"].tolist() == pytest.approx(agreement, abs=0.01)
    capsys.readouterr()
    samplers = ["--samplers", "dpm-solver++", "ancestral"]
    sampling_steps.main([str(checkpoint), "--split", "test", "--steps", "2", "4", *samplers])
    *_, head, _, top, _, _, bottom = capsys.readouterr().out.splitlines()
    assert head == "| sampler | steps | Dice % | IoU % | s/image |"
    dice = 100 * table["compat/dice"].mean(), 100 * table["compat/iou"].mean()
    assert top.startswith(f"| dpm-solver++ | 2 | {dice[0]:.2f} | {dice[1]:.2f} | ")
    assert bottom.startswith("| ancestral | 4 | ")
    sampling_steps.main([str(checkpoint), "--steps", "2"])
    shown = "2 images of val, ensemble of 3, threshold 0.25, cpu"
    assert capsys.readouterr().out.startswith(shown)
    task.threshold = 0.5
    assert abs(sampling_steps.measure(task, batches, "dpm-solver++", 2)[0] - dice[0]) > 1

    main(["predict", "--ckpt_path", str(checkpoint)])
    for batch, ensemble in zip(batches, ensembles, strict=True):
        (name,) = batch["name"]
        mask = cv2.imread(f"{run}/predict/monuseg/{name}.png", cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.shape == (40, 40)
        assert set(np.unique(mask)) <= {0, 255}
        path = f"{run}/predict/monuseg/uncertainty/{name}.png"
        uncertainty = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        assert uncertainty is not None
        assert uncertainty.shape == (40, 40)
        assert uncertainty.dtype == np.uint16
        found = uncertainty.mean() / 65535
        assert found == pytest.approx(ensemble.deviation.mean().item(), rel=0.05)
        assert found > 0.01

    segmenter = lcpdn_pl.load(checkpoint, "cpu")
    pixels = np.full((32, 32, 3), 90, np.uint8)
    several = segmenter.segment(pixels, "", samples=2)
    first = segmenter.segment(pixels, "")
    assert isinstance(segmenter.network, MedSegDiff)
    segmenter.network.noise_seed += 1
    second = segmenter.segment(pixels, "")
    assert several.uncertainty is not None
    wanted = np.abs(first.probability - second.probability) / 2
    np.testing.assert_allclose(several.uncertainty, wanted, atol=1e-4)
    assert wanted.max() > 0.001
