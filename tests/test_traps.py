"""Mistakes that give figures instead of errors: each is planted, and has to be noticed.

One short test a trap; the details of each guard are tested beside its module.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lcpdn_pl.commands.check_data import find
from lcpdn_pl.commands.sources import open_source
from lcpdn_pl.data import MoNuSeg, Phantom
from lcpdn_pl.data.checks import Finding
from lcpdn_pl.data.dataset import Batch
from lcpdn_pl.data.masks import resize_mask
from lcpdn_pl.errors import DataError, RunError
from lcpdn_pl.models import LCPDN, UNet
from lcpdn_pl.models.base import Network
from lcpdn_pl.tasks import SegmentationTask, segmentation
from tests.conftest import TreeMaker, quiet_trainer

Messages = Callable[[str], list[str]]


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    """A folder of 20 training images, and two of each other split."""
    module = Phantom(str(tmp_path), counts=(20, 2, 2), image_size=64)
    module.prepare_data()
    return module.root


@pytest.fixture
def messages() -> Iterator[Messages]:
    """Finds the warnings so far that say something, repetitions included."""
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        yield lambda part: [text for one in recorded if part in (text := str(one.message))]


def warned(root: Path, key: str) -> list[Finding]:
    """What check-data finds of a kind, above a note."""
    serious = ("warning", "error")
    return [one for one in find(open_source(root)) if one.key == key and one.level in serious]


class TestMasksThatAreNotTheirImages:
    def test_shifted(self, phantoms: Path) -> None:
        assert warned(phantoms, "masks.shifted") == []
        for path in phantoms.glob("Train_Folder/labelcol/*"):
            Image.fromarray(np.roll(np.array(Image.open(path)), (4, -3), (0, 1))).save(path)
        (finding,) = warned(phantoms, "masks.shifted")
        assert finding.message.startswith("train: ")
        assert "6% up and 5% to the right" in finding.message  # where they were
        assert "--sheet" in finding.remedy

    def test_of_the_next_image(self, phantoms: Path) -> None:
        assert warned(phantoms, "sides.agree") == []
        paths = sorted(phantoms.glob("Train_Folder/labelcol/*"))
        masks = [path.read_bytes() for path in paths]
        for path, mask in zip(paths, [*masks[1:], masks[0]], strict=True):
            path.write_bytes(mask)
        (finding,) = warned(phantoms, "sides.agree")
        assert "their masks the images?" in finding.remedy


def test_reports_shuffled_within_a_split(phantoms: Path) -> None:
    table = phantoms / "Train_Folder" / "Train_text.csv"
    reports = pd.read_csv(table)
    order = np.random.default_rng(0).permutation(len(reports))
    reports["Description"] = reports["Description"].to_numpy()[order]
    reports.to_csv(table, index=False)
    (finding,) = warned(phantoms, "sides.agree")
    assert finding.message.startswith("train: ")
    assert finding.remedy


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_train_and_test_share_an_image_under_two_names(
    make_tree: TreeMaker, tmp_path: Path, suffix: str
) -> None:
    tree = make_tree(tmp_path)
    image = tree / "Train_Folder/img/train_1.png"
    (tree / "Test_Folder/img/test_0.png").unlink()
    copy = tree / f"Test_Folder/img/test_0{suffix}"
    if suffix == ".png":
        shutil.copy(image, copy)
        with pytest.raises(DataError, match=r"two splits with the same content: .*train_1.*test_0"):
            MoNuSeg(str(tree), protocol="full").setup("fit")
    else:
        Image.open(image).save(copy)  # other bytes, so that decoding alone tells
    (finding,) = warned(tree, "leaks.copies")
    assert (finding.level, finding.items) == ("error", ("train_1 (train) = test_0 (test)",))


class Constant(Network):
    """Foreground probability 1/2 + `bias` everywhere."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, image: Tensor, text: Any) -> Tensor:  # noqa: ARG002 - reads no report
        score = self.bias.expand(image[:, 0].shape)
        return torch.stack([-score, score], dim=1)


def squares(*sides: int) -> Any:
    """Batches of one image of 32 pixels, each with a square of foreground."""
    batches: list[Batch] = []
    for side in sides:
        mask = torch.zeros(1, 32, 32, dtype=torch.long)
        mask[:, :side, :side] = 1
        batches.append(
            {"image": torch.rand(1, 3, 32, 32), "mask": mask, "text": [""], "name": [f"{side}"]}
        )
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_all_predictions_are_background(stage: str, tmp_path: Path, messages: Messages) -> None:
    trainer = quiet_trainer(tmp_path)
    score = trainer.test if stage == "test" else trainer.validate
    score(SegmentationTask(Constant(1.0)), squares(0, 3), verbose=False)
    score(SegmentationTask(Constant(-1.0)), squares(0, 0), verbose=False)
    assert not messages("ALL BACKGROUND")
    # One image has no foreground, so that the mean Dice looks like some success.
    (figures,) = score(SegmentationTask(Constant(-1.0)), squares(0, 3), verbose=False)
    assert figures["val/dice" if stage == "val" else "test/native/dice"] == 0.5
    (told,) = messages("ALL BACKGROUND")
    assert told.startswith(f"{stage}: ")
    assert "lcpdn check-data" in told


@pytest.mark.parametrize("cprfl", [True, False])  # the image encoder's tokens, and its maps alone
def test_frozen_backbones_in_train_mode(tiny_network: dict[str, Any], cprfl: bool) -> None:
    torch.manual_seed(0)
    network = LCPDN(**tiny_network, cprfl=cprfl, clean_scales=("encoder",)).eval()
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    wanted = network(image, ["left", "right"])
    for module in network.modules():  # one by one, past the backbones' own train()
        nn.Module.train(module)
    network.text_encoder._cache.clear()
    torch.testing.assert_close(network(image, ["left", "right"]), wanted, rtol=0, atol=0)
    for name, tensor in network.named_buffers():
        assert torch.equal(tensor, before[name]), name


class TestPromptWithoutGradient:
    def test_denoiser_in_no_grad(self, tiny_network: dict[str, Any], tmp_path: Path) -> None:
        network = LCPDN(**tiny_network)
        network.features.forward = torch.no_grad()(network.features.forward)  # type: ignore[method-assign]
        with pytest.raises(RunError, match=r"no gradient reaches it.*prompt_gradient false"):
            quiet_trainer(tmp_path, max_epochs=1).fit(SegmentationTask(network), squares(9))

    def test_any_parameter_of_any_network(self, tmp_path: Path, messages: Messages) -> None:
        network = UNet([4, 8])
        network.forgotten = nn.Linear(2, 2)
        quiet_trainer(tmp_path, max_epochs=2).fit(SegmentationTask(network), squares(3, 4))
        (told,) = messages("no gradient")
        assert told.startswith("2 parameters")
        assert "network.forgotten.weight, network.forgotten.bias" in told

    def test_a_prompt_that_starts_at_zero_has_one(
        self, tiny_network: dict[str, Any], tmp_path: Path, messages: Messages
    ) -> None:
        task = SegmentationTask(LCPDN(**tiny_network))
        quiet_trainer(tmp_path, max_epochs=1).fit(task, squares(9))
        assert not messages("no gradient")


class TestScoresByTheWrongMask:
    def check(self) -> None:
        """Of lines one pixel wide, the two rules make scores that are far apart."""
        lines = np.zeros((64, 64), np.uint8)
        lines[5::8] = 1
        grown = torch.from_numpy(resize_mask(lines, (16, 16), "compat")).float()
        logits = torch.stack([-grown + 0.5, grown - 0.5])[None]
        batch: Batch = {
            "image": torch.zeros(1, 3, 16, 16),
            "mask": torch.from_numpy(lines)[None].long(),
            "text": [""],
            "name": ["lines"],
        }
        row = SegmentationTask(Constant(0.0)).score_test(batch, logits)["row"]
        assert row["compat/dice"] == 1
        assert row["native/dice"] == pytest.approx(2 / 5)  # four rows predicted for each line

    def test_as_stated(self) -> None:
        self.check()

    def test_compat_on_native_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nearest(mask: NDArray[np.uint8], size: tuple[int, int], _: str) -> NDArray[np.uint8]:
            return resize_mask(mask, size, "native")

        monkeypatch.setattr(segmentation, "resize_mask", nearest)
        with pytest.raises(AssertionError):
            self.check()

    def test_native_on_resized_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        by_rule = segmentation.by_rule
        monkeypatch.setattr(segmentation, "by_rule", lambda _, *given: by_rule("compat", *given))
        with pytest.raises(AssertionError):
            self.check()
