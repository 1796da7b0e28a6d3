"""Real images of all three sets: one epoch and a test of each, through the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lcpdn_pl
from lcpdn_pl.backbones.weights import DDPM_SMALL
from lcpdn_pl.cli import main
from lcpdn_pl.data import MoNuSeg, MosMedPlus, QaTaCOV19
from lcpdn_pl.data.images import read_mask
from lcpdn_pl.data.pool import pixel_hash
from lcpdn_pl.data.protocols import read_protocol

CONFIGS = Path(__file__).parents[1] / "configs"

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("module", "protocol", "counts", "size"),
    [
        (MoNuSeg, "paper", (5, 6, 14), 1000),
        (MoNuSeg, "draw_4", (5, 6, 14), 1000),
        (QaTaCOV19, "paper", (150, 30, 50), 224),
        (MosMedPlus, "paper", (150, 20, 30), 400),
        (MosMedPlus, "by_volume", (150, 20, 30), 400),
    ],
)
def test_protocols_on_disk(
    module: type[MoNuSeg], protocol: str, counts: tuple[int, int, int], size: int, real_data: Path
) -> None:
    data = module(str(real_data / module.folder), protocol)
    data.setup("fit")
    found = data.samples["split"].value_counts()
    assert tuple(found[split] for split in ("train", "val", "test")) == counts
    test, train = next(iter(data.test_dataloader())), next(iter(data.train_dataloader()))
    assert test["mask"].shape == (1, size, size)
    assert train["mask"].shape == (1, 256, 256)
    for batch in (train, test):
        assert batch["image"].shape == (1, 3, 256, 256)
        assert -1 <= batch["image"].min() < batch["image"].max() <= 1
        assert batch["mask"].unique().tolist() == [0, 1]
        assert 0 < batch["mask"].float().mean() < 1
        assert len(batch["text"][0]) > 10
    assert train["image"].std() > 0.05


@pytest.mark.parametrize("name", ["monuseg", "qata_cov19", "mosmed_plus"])
def test_one_epoch_and_a_test(
    name: str,
    real_data: Path,
    tiny_denoiser: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(real_data))
    arguments = [
        f"--config={CONFIGS / name}.yaml",
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.limit_train_batches=5",
        "--trainer.limit_val_batches=2",
        "--data.image_size=64",
        f"--model.network.denoiser={tiny_denoiser}",
        "--model.network.blocks=[1,3,4]",
    ]
    main(["fit", *arguments])
    (checkpoint,) = Path("runs").glob(f"{name}/lcpdn/*/best.ckpt")
    main(["test", "--ckpt_path", str(checkpoint)])
    folder = checkpoint.parent / "test" / name
    results = pd.read_csv(folder / "per_image.csv")
    assert len(results) == {"monuseg": 14, "qata_cov19": 50, "mosmed_plus": 30}[name]
    figures = results.drop(columns="name").to_numpy()
    assert ((figures >= 0) & (figures <= 1)).all()
    assert (folder / "overlay.png").is_file()


def test_the_denoiser_saw_no_test_image(real_data: Path) -> None:
    seen = pd.read_csv(DDPM_SMALL / "images.csv")
    modules = {module.folder: module for module in (MoNuSeg, QaTaCOV19, MosMedPlus)}
    assert set(seen["source"]) == set(modules)
    hashes = set(seen["pixels_sha256"])
    for folder, module in modules.items():
        on_disk = {p.stem: p for p in real_data.glob(f"{folder}/*_Folder/img/*")}
        tested = {p.stem for p in real_data.glob(f"{folder}/Test_Folder/img/*")}
        for protocol in module.protocols.values():
            table = read_protocol(protocol)
            tested |= set(table.loc[table["split"] == "test", "name"])
        assert len(tested) >= 14
        assert hashes.isdisjoint(pixel_hash(on_disk[name]) for name in tested)
    # The list is one of images that there are, in the splits that it says.
    for row in seen.sample(20, random_state=0).itertuples():
        split = {"train": "Train_Folder", "val": "Val_Folder"}[str(row.split)]
        path = real_data / str(row.source) / split / "img" / str(row.name)
        assert pixel_hash(path) == row.pixels_sha256


def test_the_shipped_network_finds_nuclei(real_data: Path) -> None:
    data = MoNuSeg(str(real_data / "MoNuSeg"))
    segmenter = lcpdn_pl.load("nuclei")
    samples = data.read_samples()
    scores = []
    for row in samples[samples["split"] == "val"].itertuples():
        found = segmenter.segment(str(row.image), str(row.text))
        mask = read_mask(Path(str(row.mask)), (255,), None)
        scores.append(2 * (found.mask & mask).sum() / (found.mask.sum() + mask.sum()))
    assert len(scores) == 6
    assert np.mean(scores) > 0.72
