"""Images without labels for pretraining: crops at several scales out of folders and tables."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import NonNegativeInt
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lcpdn_pl.data.datamodule import DataModule, run_seed
from lcpdn_pl.data.draws import Draws, TrainingLoader
from lcpdn_pl.data.images import list_images, read_image
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.manifest import read_manifest
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.public import data_root
from lcpdn_pl.data.stamps import Stamps
from lcpdn_pl.data.transforms import resize_image, to_tensor
from lcpdn_pl.errors import ConfigError, DataError


@dataclass
class Source:
    """A set of images to learn from; each source is drawn from equally often.

    Args:
        path: A folder of images, a tree in LViT's layout (its training images are learnt from, its
            validation images held out), or a .csv or .jsonl manifest (splits train and val). A
            relative path that does not exist is looked up under ``$LCPDN_DATA_ROOT`` or ``data``.
        turns: Whether the images have no up and down, so that all flips and quarter turns are
            drawn; otherwise left-right flips alone.
        protocols: Protocols of this data set: images in the test split of any of them are left
            out, wherever they lie on disk.
    """

    path: str
    turns: bool = False
    protocols: list[str] = field(default_factory=list)


class ImagePool(DataModule):
    """Random crops of unlabelled images, and whole held-out images to measure on.

    The shorter side of an image is brought to a random number of pixels, log-uniform in
    ``sides``; a square crop of it is flipped or turned. Each batch draws one of ``crops``.

    Args:
        sources: The images, see :class:`Source`.
        name: Name of the pool in run folders and model cards.
        crops: Pairs of crop side and batch size, e.g. ``[[128, 16], [256, 4]]``.
        sides: Least and greatest shorter side of the resized image, in pixels.
        batches: Batches in an epoch.
        held_out: Most held-out images a source, evenly spread; a plain folder gives this many of
            its images up.
        held_out_side: Side that held-out images are resized to.
        num_workers: Loader processes; 0 loads in the main process.
        memory: GiB of decoded images that a process may keep.

    Attributes:
        samples: Table with the columns source, image, turns and split (train, val), set by
            ``setup``.

    Raises:
        ConfigError: If there is no source, or crops and sides do not fit together.
    """

    def __init__(
        self,
        sources: list[Source],
        name: str = "pool",
        crops: Sequence[tuple[int, int]] = ((128, 16), (256, 4)),
        sides: tuple[int, int] = (160, 448),
        batches: int = 400,
        held_out: int = 8,
        held_out_side: int = 256,
        num_workers: NonNegativeInt = 0,
        memory: float = 2.0,
    ) -> None:
        super().__init__()
        if not sources:
            raise ConfigError("sources is empty; name at least one folder, tree or manifest.")
        largest = max(side for side, _ in crops)
        if not 0 < sides[0] <= sides[1] or largest > sides[1]:
            raise ConfigError(
                f"sides={list(sides)} and crops={[list(crop) for crop in crops]} do not fit: "
                f"expected 0 < least side <= greatest side, and crops no larger than that."
            )
        self.sources = sources
        self.name = name
        self.crops = crops
        self.sides = sides
        self.batches = batches
        self.held_out = held_out
        self.held_out_side = held_out_side
        self.num_workers = num_workers
        self.memory = memory
        self.samples = pd.DataFrame()

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """Lists the images.

        Raises:
            DataError: If a source is missing or has no image to learn from, or no source has one
                to measure on.
        """
        if self.samples.empty:
            tables = [_list_source(source, self.held_out) for source in self.sources]
            samples = pd.concat(tables, ignore_index=True)
            if "val" not in set(samples["split"]):
                raise DataError(
                    f"{', '.join(source.path for source in self.sources)}: expected held-out "
                    "images to measure on, found none. Set held_out to 1 or more, and give a "
                    "folder of at least 10 images, or a tree or manifest with validation images."
                )
            self.samples = samples

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Random crops, batches [B, 3, side, side] in [-1, 1].

        Raises:
            ConfigError: If several processes were to train together.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ConfigError(
                f"Pretraining runs in one process, found {self.trainer.world_size}: set "
                "trainer.devices to 1."
            )
        samples = self._split("train")
        sampler = CropSampler(
            [np.asarray(rows) for rows in samples.groupby("source", sort=False).indices.values()],
            self.crops,
            self.batches,
            run_seed(),
        )
        # Batches are drawn by the sampler, whose epoch Lightning sets, and not by a batch sampler,
        # whose epoch it does not.
        return TrainingLoader(
            CropDataset(samples, self.sides, self.memory),
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=self._worker_start(),
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Held-out images, whole, batches [B, 3, held_out_side, held_out_side]."""
        dataset = WholeDataset(self._split("val"), self.held_out_side)
        return DataLoader(
            dataset,
            batch_size=4,
            num_workers=self.num_workers,
            worker_init_fn=self._worker_start(),
        )

    def _split(self, split: str) -> pd.DataFrame:
        return self.samples[self.samples["split"] == split].reset_index(drop=True)


@dataclass(frozen=True)
class Crop:
    """One draw: which image, how large, and the seed of everything else about it."""

    index: int
    side: int
    seed: int


class CropDataset(Dataset[Tensor]):
    """Random crops of the images of a table.

    Args:
        samples: Table with the columns image and turns.
        sides: Least and greatest shorter side that an image is resized to.
        memory: GiB of decoded images to keep.
    """

    def __init__(self, samples: pd.DataFrame, sides: tuple[int, int], memory: float) -> None:
        self.rows = samples[["image", "turns"]].to_numpy().tolist()
        self.sides = sides
        self.room = int(memory * 2**30)
        self.stamps = Stamps(image for image, _ in self.rows)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __getitem__(self, crops: Sequence[Crop]) -> Tensor:
        """Cuts a batch of crops of one size: [B, 3, side, side] in [-1, 1].

        Raises:
            DataError: If an image cannot be read, or has changed since the run began.
        """
        return torch.stack([self._cut(crop) for crop in crops])

    def _cut(self, crop: Crop) -> Tensor:
        turns = self.rows[crop.index][1]
        image = self._read(crop.index)
        rng = np.random.default_rng(crop.seed)
        low, high = (math.log(max(side, crop.side)) for side in self.sides)
        shorter = min(image.shape[:2])
        # The region of the original that becomes the crop: cut first, then resized, is cheaper.
        region = min(round(crop.side * shorter / math.exp(rng.uniform(low, high))), shorter)
        top, left = (rng.integers(size - region + 1) for size in image.shape[:2])
        cut = resize_image(image[top : top + region, left : left + region], crop.side)
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        if turns:
            cut = np.rot90(cut, int(rng.integers(4)))
        return to_tensor(np.ascontiguousarray(cut))

    def _read(self, index: int) -> NDArray[np.uint8]:
        if index in self._kept:
            return self._kept[index]
        self.stamps.refuse_changes(self.rows[index][0])
        image = read_image(Path(self.rows[index][0]))
        if image.nbytes <= self.room:
            self._kept[index] = image
            self.room -= image.nbytes
        return image


class WholeDataset(Dataset[Tensor]):
    """Whole images, resized to a square.

    Args:
        samples: Table with the column image.
        side: Side of the square.
    """

    def __init__(self, samples: pd.DataFrame, side: int) -> None:
        self.images = samples["image"].tolist()
        self.stamps = Stamps(self.images)
        self.side = side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """One image, [3, side, side] in [-1, 1].

        Raises:
            DataError: If it cannot be read, or has changed since the run began.
        """
        self.stamps.refuse_changes(self.images[index])
        return to_tensor(resize_image(read_image(Path(self.images[index])), self.side))


class CropSampler(Draws[list[Crop]]):
    """Batches of crops.

    Args:
        sources: Row numbers of each source, which are drawn from equally often.
        crops: Pairs of crop side and batch size, one of which each batch draws.
        batches: Batches in an epoch.
        seed: Seed of the run.
    """

    def __init__(
        self,
        sources: Sequence[NDArray[np.intp]],
        crops: Sequence[tuple[int, int]],
        batches: int,
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.sources = list(sources)
        self.crops = crops
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Crop]]:
        return islice(self._batches(), self.first, None)

    def _batches(self) -> Iterator[list[Crop]]:
        rng = self.random()
        for _ in range(self.batches):
            side, size = self.crops[int(rng.integers(len(self.crops)))]
            chosen = rng.integers(len(self.sources), size=size)
            rows = [int(rng.choice(self.sources[source])) for source in chosen]
            seeds = rng.integers(2**31, size=size).tolist()
            yield [Crop(row, side, seed) for row, seed in zip(rows, seeds, strict=True)]


def pixel_hash(path: Path) -> str:
    """SHA-256 of an image's pixels as 8-bit RGB, whatever file format they are stored in.

    Hashed are the height and width as decimal text, ``HxW``, and then the bytes in row order.

    Raises:
        DataError: If the image cannot be read.
    """
    image = read_image(path)
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _list_source(source: Source, held_out: int) -> pd.DataFrame:
    path = Path(source.path)
    if not path.exists():
        path = data_root(None, source.path)
    if (path / "Train_Folder").is_dir():
        samples = read_lvit(path)
    elif path.is_dir():
        samples = _list_folder(path)
    elif path.is_file():
        samples = read_manifest(path)
    else:
        raise DataError(
            f"{source.path}: expected a folder of images, a tree in LViT's layout or a manifest, "
            f"found nothing, neither there nor at {path}. Correct the path or set LCPDN_DATA_ROOT."
        )
    for protocol in map(read_protocol, source.protocols):
        tested = protocol.loc[protocol["split"] == "test", "name"]
        samples = samples[~samples["name"].isin(tested)]
    if "" in set(samples["split"]):  # a plain folder
        rows = _spread(len(samples), min(held_out, len(samples) // 10))
        chosen = np.isin(np.arange(len(samples)), rows)
        samples = samples.assign(split=np.where(chosen, "val", "train"))
    train, val = (samples[samples["split"] == split] for split in ("train", "val"))
    if train.empty:
        raise DataError(f"{path}: expected images to learn from, found none. Add images.")
    val = val.iloc[_spread(len(val), held_out)]
    return pd.concat([train, val])[["image", "split"]].assign(
        source=source.path, turns=source.turns
    )


def _list_folder(folder: Path) -> pd.DataFrame:
    """The images below a folder, whose split is not decided yet."""
    paths = list_images(folder)
    samples = pd.DataFrame({"image": [str(path) for path in paths], "split": ""})
    samples["name"] = [path.stem for path in paths]
    return samples


def _spread(length: int, count: int) -> NDArray[np.intp]:
    """At most ``count`` row numbers, evenly spread."""
    return np.unique(np.linspace(0, max(length - 1, 0), min(count, length)).round().astype(np.intp))
