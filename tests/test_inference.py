"""Networks on images of any size."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import lcpdn_pl
from lcpdn_pl.backbones.catalogue import CATALOGUE, SHIPPED_NUCLEI
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.data.pictures import Picture
from lcpdn_pl.data.transforms import resize_image, to_tensor
from lcpdn_pl.errors import CheckpointError, ConfigError, DataError, WeightsError
from lcpdn_pl.inference import Segmenter
from lcpdn_pl.models import LCPDN, Network, Pixels
from lcpdn_pl.tasks import SegmentationTask
from tests.test_restore import run

__all__ = ["run"]  # the fixture

REPORT = "one round nuclei, left lung"


class Pointwise(Network):
    """Each pixel by itself: tiles can be compared with the whole exactly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classify = nn.Conv2d(3, 2, 1)
        nn.init.normal_(self.classify.weight, std=2)
        self.seen: list[tuple[Tensor, Sequence[str]]] = []

    def forward(self, image: Tensor, text: Sequence[str]) -> Tensor:
        self.seen.append((image, text))
        logits: Tensor = self.classify(image)
        return logits


class Drawn(Picture):
    """Rows of a smooth pattern, computed as they are asked for."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__("drawn", height, width)
        self.asked: list[tuple[int, int]] = []

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        self.asked.append((top, bottom))
        y, x = np.mgrid[top:bottom, : self.width]
        waves = [np.sin(x / 11 + y / 23), np.cos(x / 17), np.sin(y / 29 - x / 41)]
        return np.rint(127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture
def pointwise() -> Pointwise:
    return Pointwise()


def single_pass(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits = network(to_tensor(pixels)[None], [REPORT])
    return np.asarray(logits.softmax(dim=1)[0, 1], np.float32)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("size", [(150, 97), (32, 32), (33, 200)])
def test_tiles_blend_to_the_single_pass(
    pointwise: Pointwise, size: tuple[int, int], overlap: float
) -> None:
    pixels = Drawn(*size).rows(0, size[0])
    found = Segmenter(pointwise, 32, "cpu").segment(pixels, REPORT, tile=32, overlap=overlap)
    expected = single_pass(pointwise, pixels)
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert found.mask.dtype == np.uint8
    np.testing.assert_array_equal(found.mask, found.probability > 0.5)
    assert 0 < found.mask.mean() < 1
    assert found.uncertainty is None
    assert all(image.shape == (1, 3, 32, 32) for image, _ in pointwise.seen[:-1])
    assert all(text == [REPORT] for _, text in pointwise.seen)


def test_the_whole_is_what_predict_does(pointwise: Pointwise) -> None:
    pixels = Drawn(90, 60).rows(0, 90)
    found = Segmenter(pointwise, 32, "cpu").segment(pixels, REPORT)
    image = to_tensor(resize_image(pixels, 32))[None]
    batch = {"image": image, "mask": torch.zeros(1, 90, 60), "text": [REPORT], "name": ["a"]}
    with torch.inference_mode():
        expected = SegmentationTask(pointwise).predict_step(batch, 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.probability, expected[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(pointwise.seen[0][0].numpy(), image.numpy())
    assert not pointwise.training


def test_a_threshold_divides_the_odds(pointwise: Pointwise) -> None:
    pixels = Drawn(32, 32).rows(0, 32)
    plain = Segmenter(pointwise, 32, "cpu").segment(pixels, REPORT)
    found = Segmenter(pointwise, 32, "cpu", threshold=0.6).segment(pixels, REPORT)
    np.testing.assert_array_equal(found.mask, plain.probability > 0.6)
    odds = plain.probability / (1 - plain.probability) * 0.4 / 0.6
    np.testing.assert_allclose(found.probability, odds / (1 + odds), atol=1e-5)


def test_a_tile_is_taken_at_its_scale_and_mirrored_at_the_edge(pointwise: Pointwise) -> None:
    pixels = Drawn(40, 100).rows(0, 40)
    found = Segmenter(pointwise, 32, "cpu").segment(pixels, REPORT, tile=64, overlap=0.25)
    assert found.probability.shape == (40, 100)
    seen = [image for image, _ in pointwise.seen]
    assert len(seen) == 2
    tile = np.concatenate([pixels, pixels[-2:-26:-1]])[:, :64]
    np.testing.assert_array_equal(seen[0][0].numpy(), to_tensor(resize_image(tile, 32)).numpy())
    z = pointwise(seen[0].clone(), [""])
    expected = F.interpolate(z, (64, 64), mode="bilinear").softmax(dim=1)[0, 1].detach()
    np.testing.assert_allclose(found.probability[:, :36], expected[:40, :36], atol=1e-5)


def test_images_much_smaller_than_a_tile(pointwise: Pointwise) -> None:
    pixels = Drawn(3, 1).rows(0, 3)
    found = Segmenter(pointwise, 32, "cpu").segment(pixels, REPORT, tile=32)
    np.testing.assert_allclose(found.probability, single_pass(pointwise, pixels), atol=1e-5)


def test_one_row_of_tiles_is_held_at_a_time(pointwise: Pointwise) -> None:
    height, width, tile = 5000, 96, 64
    picture = Drawn(height, width)
    segmenter = Segmenter(pointwise, 64, "cpu")
    tiling = segmenter.plan(height, width, tile)
    tiles: list[int] = []
    rows = 0
    for band in segmenter.bands(picture, REPORT, tiling, advance=lambda: tiles.append(1)):
        assert band.top == rows
        assert band.probability.shape[0] <= tile
        assert band.uncertainty is None
        # No row is read before the bands above it were handed over.
        assert picture.asked[-1] == (band.top, band.top + tile)
        rows += len(band.probability)
        del pointwise.seen[:]
    assert rows == height
    assert len(tiles) == tiling.count == 2 * len(picture.asked)


def test_grey_and_wrong_arrays(pointwise: Pointwise) -> None:
    segmenter = Segmenter(pointwise, 32, "cpu")
    grey = Drawn(20, 30).rows(0, 20)[..., 0]
    colour = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        segmenter.segment(grey, "").probability, segmenter.segment(colour, "").probability
    )
    for wrong in (grey / 255, grey[None], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(DataError, match=r"Expected an image \[H, W, 3\] .* Convert it"):
            segmenter.segment(wrong, "")  # type: ignore[arg-type]


def test_sizes_that_do_not_fit(pointwise: Pointwise) -> None:
    segmenter = Segmenter(pointwise, 32, "cpu")
    assert segmenter.limit == 512
    assert Segmenter(pointwise, 1024, "cpu").limit == 8192
    segmenter.plan(512, 100)
    with pytest.raises(
        ConfigError, match=r"513 x 100 pixels is too large .*at most 512 a side.* tile"
    ):
        segmenter.plan(513, 100)
    segmenter.plan(10**6, 10**6, 512)
    for tile in (15, 513):
        with pytest.raises(ConfigError, match=rf"tile={tile} must be 16 to 512 pixels"):
            segmenter.plan(100, 100, tile)


# Noise


@pytest.fixture
def lcpdn(tiny_network: dict[str, object]) -> LCPDN:
    torch.manual_seed(0)
    network = LCPDN(**tiny_network)  # type: ignore[arg-type]
    last = network.get_submodule("head.classify.6")
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight)
    return network


def test_uncertainty_is_the_deviation_over_noises(lcpdn: LCPDN) -> None:
    pixels = Drawn(48, 40).rows(0, 48)
    segmenter = Segmenter(lcpdn, 32, "cpu")
    found = segmenter.segment(pixels, REPORT, samples=4)
    assert lcpdn.features.noise_seed == 0
    each = []
    for seed in range(4):
        lcpdn.features.noise_seed = seed
        each.append(segmenter.segment(pixels, REPORT).probability)
    np.testing.assert_array_equal(found.probability, each[0])
    assert found.uncertainty is not None
    np.testing.assert_allclose(found.uncertainty, np.std(each, axis=0), atol=1e-5)
    assert found.uncertainty.max() > 1e-4


def test_uncertainty_in_tiles(lcpdn: LCPDN) -> None:
    pixels = Drawn(60, 32).rows(0, 60)
    segmenter = Segmenter(lcpdn, 32, "cpu")
    found = segmenter.segment(pixels, REPORT, tile=32, samples=2)
    alone = segmenter.segment(pixels[:32], REPORT, samples=2)
    assert found.uncertainty is not None
    assert alone.uncertainty is not None
    assert found.uncertainty.shape == (60, 32)
    # Above row 14 is the first tile alone.
    np.testing.assert_allclose(found.uncertainty[:14], alone.uncertainty[:14], atol=1e-5)


def test_networks_without_noise_say_so(pointwise: Pointwise, lcpdn: LCPDN) -> None:
    pixels = Drawn(32, 32).rows(0, 32)
    with pytest.raises(ConfigError, match="samples=2 compares noises, but Pointwise has none"):
        Segmenter(pointwise, 32, "cpu").segment(pixels, "", samples=2)
    with pytest.raises(ConfigError, match="samples=0 must be at least 1"):
        Segmenter(pointwise, 32, "cpu").segment(pixels, "", samples=0)
    lcpdn.features.noise = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="LCPDN has none that could be drawn anew"):
        Segmenter(lcpdn, 32, "cpu").segment(pixels, "", samples=2)


def test_features_are_not_stored(lcpdn: LCPDN, tmp_path: Path) -> None:
    lcpdn.features.store = FeatureStore(str(tmp_path / "store"), 1.0)
    Segmenter(lcpdn, 32, "cpu").segment(Drawn(32, 32).rows(0, 32), REPORT)
    assert lcpdn.features.store is None


# Checkpoints


def test_load(run: Path, tmp_path: Path) -> None:
    segmenter = lcpdn_pl.load(run / "last.ckpt")
    assert isinstance(segmenter.network, Pixels)
    assert segmenter.image_size == 16
    assert not segmenter.network.training
    pixels = Drawn(40, 30).rows(0, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = segmenter.segment(tmp_path / "a.png", REPORT)
    assert (found.name, found.mask.shape) == ("a.png", (40, 30))
    np.testing.assert_array_equal(
        found.probability, segmenter.segment(pixels, "another").probability
    )


def test_names_of_networks(run: Path) -> None:
    """A run folder stands for its best checkpoint; a folder that is called so hides no network."""
    assert lcpdn_pl.load(run).image_size == 16
    Path("nuclei").mkdir()
    assert lcpdn_pl.load("nuclei").image_size == 256
    shutil.copy(run / "config.yaml", ".")
    shutil.copy(run / "last.ckpt", "best.ckpt")
    Path("nuclei").rmdir()
    Path("best.ckpt").rename("nuclei")
    assert lcpdn_pl.load("nuclei").image_size == 16


def test_files_that_are_no_checkpoint(run: Path) -> None:
    (run / "last.ckpt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected a checkpoint of lcpdn fit"):
        lcpdn_pl.load(run / "last.ckpt")
    config = (run / "config.yaml").read_text().replace("head_widths", "widths_of_old")
    (run / "config.yaml").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.yaml: .* of this version of lcpdn_pl"):
        lcpdn_pl.load(run / "last.ckpt")


def test_devices_that_are_not_there(pointwise: Pointwise) -> None:
    for device in ("warp", "cuda:99", "meta", "hpu"):
        with pytest.raises(ConfigError, match=rf"device='{device}' cannot be used"):
            Segmenter(pointwise, 32, device)


def test_load_is_all_that_the_package_exports() -> None:
    with pytest.raises(AttributeError, match="'lcpdn_pl' has no attribute 'store'"):
        lcpdn_pl.store  # noqa: B018


def test_the_network_that_comes_along_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = CATALOGUE[SHIPPED_NUCLEI]
    assert shipped.intact() is True
    shutil.copytree(shipped.path.parent, tmp_path / "nuclei")
    other = replace(shipped, folder=tmp_path / "nuclei")
    monkeypatch.setitem(CATALOGUE, SHIPPED_NUCLEI, other)
    content = torch.load(other.path, weights_only=True)
    for weight in content["state_dict"].values():
        if weight.is_floating_point():
            weight.neg_()
    torch.save(content, other.path)
    with pytest.raises(WeightsError, match=r"expected the weights shipped/nuclei with SHA-256"):
        lcpdn_pl.load("nuclei", "cpu")
