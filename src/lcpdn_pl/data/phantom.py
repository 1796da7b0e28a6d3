"""Phantom data: images that are drawn, so that everything runs without any download."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image

from lcpdn_pl.data.corruptions import Corruption
from lcpdn_pl.data.datamodule import Augment, SegmentationDataModule, TestReports
from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.masks import MaskRule
from lcpdn_pl.data.phantoms import LOOKS, Look, draw_phantom
from lcpdn_pl.data.public import data_root

_FOLDERS = {"Train_Folder": 0, "Val_Folder": 1, "Test_Folder": 2}


class Phantom(SegmentationDataModule):
    """Drawn images in LViT's layout: stained nuclei, chest X-rays and chest CT slices.

    Every image shows two kinds of structure and its report names the foreground, so a network
    that does not read the report cannot solve it. The files are drawn once, under a folder that
    the settings name.

    Args:
        root: Folder under which the phantoms are kept; null takes ``$LCPDN_DATA_ROOT/Phantom``
            or, where that is not set, ``data/Phantom``.
        looks: Which looks are drawn, in turn.
        counts: Numbers of training, validation and test images.
        drawing_seed: Seed of the drawings.
        image_size: Side that images are drawn at.
        batch_size: Training and validation batch size.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Changes of training samples: ``full``, ``mild`` (for grey images), ``dihedral``
            (flips and quarter turns alone) or ``none``.
        mask_rule: How training and validation masks are resized, ``compat`` or ``native``.
        test_reports: What the test split's reports are replaced by: ``right`` (nothing),
            ``shuffled``, ``empty`` or ``contradicting``.
        test_corruption: How test images are made worse: ``none``, ``noise``, ``blur``, ``jpeg`` or
            ``contrast``.
        test_strength: How much, 1 to 5.
        unlabelled: Images without masks for training: null, or a folder.
    """

    name = "phantom"
    foreground = (255,)

    def __init__(
        self,
        root: str | None = None,
        looks: Sequence[Look] = LOOKS,
        counts: tuple[int, int, int] = (240, 30, 60),
        drawing_seed: int = 0,
        image_size: PositiveInt = 128,
        batch_size: PositiveInt = 1,
        num_workers: NonNegativeInt = 0,
        augment: Augment = "full",
        mask_rule: MaskRule = "native",
        test_reports: TestReports = "right",
        test_corruption: Corruption = "none",
        test_strength: int = 1,
        unlabelled: str | None = None,
    ) -> None:
        super().__init__(
            image_size,
            batch_size,
            num_workers,
            augment,
            mask_rule,
            test_reports,
            test_corruption,
            test_strength,
            unlabelled,
        )
        self.looks = tuple(looks)
        self.counts = counts
        self.drawing_seed = drawing_seed
        settings = [*self.looks, *map(str, counts), f"{image_size}px", f"seed{drawing_seed}"]
        self.root = data_root(root, "Phantom") / "-".join(settings)

    def prepare_data(self) -> None:
        """Draws the files, unless they are there; the folder appears whole or not at all."""
        if self.root.exists():
            return
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root.parent) as folder:
            for name, split in _FOLDERS.items():
                self._draw_split(Path(folder, name), split)
            Path(folder).chmod(0o755)  # a data root may be shared; temporary folders are private
            try:
                Path(folder).rename(self.root)
            except OSError:
                if not self.root.exists():  # or another process was faster
                    raise
            else:
                Path(folder).mkdir()  # for the context manager to remove

    def _draw_split(self, folder: Path, split: int) -> None:
        for part in ("img", "labelcol"):
            (folder / part).mkdir(parents=True)
        rows = []
        for index in range(self.counts[split]):
            rng = np.random.default_rng((self.drawing_seed, split, index))
            look = self.looks[index % len(self.looks)]
            phantom = draw_phantom(look, self.image_size, rng)
            name = f"{folder.name.split('_')[0].lower()}_{index:04d}_{look}.png"
            # Pillow raises when a file cannot be written; OpenCV would only return False.
            Image.fromarray(phantom.image).save(folder / "img" / name)
            Image.fromarray(phantom.mask).save(folder / "labelcol" / name)
            rows.append({"Image": name, "Description": phantom.report})
        table = folder / f"{folder.name.replace('Folder', 'text')}.csv"
        pd.DataFrame(rows, columns=["Image", "Description"]).to_csv(table, index=False)

    def read_samples(self) -> pd.DataFrame:
        """See :meth:`SegmentationDataModule.read_samples`."""
        return read_lvit(self.root)
