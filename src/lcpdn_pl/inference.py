"""A trained network on images of any size, outside of Lightning."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcpdn_pl.backbones.catalogue import SHIPPED_NUCLEI, embedded
from lcpdn_pl.backbones.diffusion import DiffusionFeatures
from lcpdn_pl.checkpoints import BEST
from lcpdn_pl.data import SegmentationDataModule
from lcpdn_pl.data.pictures import Picture, open_picture
from lcpdn_pl.data.transforms import resize_image, to_tensor
from lcpdn_pl.errors import CheckpointError, ConfigError, DataError
from lcpdn_pl.metrics import shift
from lcpdn_pl.models import MedSegDiff, Network
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import SegmentationTask
from lcpdn_pl.tiling import Tiling

NUCLEI = "nuclei"
"""Name of the network that comes with this package."""
OVERLAP = 0.25
"""Share of a tile's side by which tiles overlap at least."""

_MOST_REDUCED = 16
_LARGEST_TILE = 8192
_SMALLEST_TILE = 16


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image, at the image's own size.

    Attributes:
        mask: [H, W] in {0, 1}: where the probability is above one half.
        probability: Of the foreground, float32 [H, W].
        uncertainty: Standard deviation of the probability over noises, float32 [H, W] in
            [0, 0.5]; ``None`` where one noise was taken.
        name: Of the image.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    name: str


@dataclass(frozen=True)
class Band:
    """Some rows of a result, from the image's left to its right.

    Attributes:
        top: The first of them.
        probability: float32 [rows, W].
        uncertainty: float32 [rows, W], or ``None``.
    """

    top: int
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None


class _ArrayPicture(Picture):
    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or pixels.shape[2:] not in ((), (3,))
        ):
            raise DataError(
                "Expected an image [H, W, 3] or [H, W] of uint8, found "
                f"{list(pixels.shape)} of {pixels.dtype}. Convert it to 8-bit RGB."
            )
        super().__init__("array", *pixels.shape[:2])
        self._pixels = pixels

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        rows = self._pixels[top:bottom]
        return rows if rows.ndim == 3 else np.repeat(rows[..., None], 3, axis=2)


class Segmenter:
    """Segments images with a trained network.

    An image is taken whole, resized to the square that the network was trained at, as training,
    ``lcpdn test`` and ``lcpdn predict`` do. ``tile`` cuts it into overlapping square tiles of that
    many of its own pixels instead, each of which is resized to that square. The scale is right
    where a tile shows as much as a training image: 1000 pixels for images like MoNuSeg's, which
    are 1000 x 1000 whatever ``data.image_size`` is.

    Args:
        network: The network; it is put in eval mode.
        image_size: Side of the square that it was trained at.
        device: Where to run, such as ``cuda:1``; ``None`` is a GPU if there is one.
        threshold: The network's probability above which a pixel is foreground. Probabilities are
            given with their odds divided by its own, so that 0.5 divides them.

    Raises:
        ConfigError: If there is no such device.
    """

    def __init__(
        self,
        network: Network,
        image_size: int,
        device: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        self.threshold = threshold
        self.device = _device(device)
        self.network = network.to(self.device).eval()
        self.image_size = image_size
        self._seeded: list[DiffusionFeatures | MedSegDiff] = []
        for module in network.modules():
            if isinstance(module, DiffusionFeatures):
                module.store = None  # these images do not come again
                if module.noise is None:
                    self._seeded.append(module)
            elif isinstance(module, MedSegDiff):
                self._seeded.append(module)

    @property
    def limit(self) -> int:
        """Longest side of what is resized to the network's square at once."""
        return min(_MOST_REDUCED * self.image_size, _LARGEST_TILE)

    def plan(
        self, height: int, width: int, tile: int | None = None, overlap: float = OVERLAP
    ) -> Tiling:
        """How an image of this size is taken; arguments as of :meth:`segment`.

        Raises:
            ConfigError: If it is too large to be taken whole, or an argument is out of range.
        """
        if tile is None:
            if overlap != OVERLAP:
                raise ConfigError(f"overlap={overlap} is that of tiles: give tile too.")
            if max(height, width) > self.limit:
                raise ConfigError(
                    f"An image of {height} x {width} pixels is too large to be taken whole "
                    f"(at most {self.limit} a side, for a network trained at {self.image_size}). "
                    "Give tile, the side of the tiles in this image's pixels: as many as the "
                    "training images had across, such as 1000 for MoNuSeg."
                )
            return Tiling.whole(height, width)
        if not _SMALLEST_TILE <= tile <= self.limit:
            raise ConfigError(
                f"tile={tile} must be {_SMALLEST_TILE} to {self.limit} pixels, for a network "
                f"trained at {self.image_size}."
            )
        return Tiling.of(height, width, tile, overlap)

    def check_samples(self, samples: int) -> None:
        """Checks a number of noises to compare.

        Raises:
            ConfigError: If it is below 1, or the network has no noise.
        """
        if samples < 1:
            raise ConfigError(f"samples={samples} must be at least 1.")
        if samples > 1 and not self._seeded:
            raise ConfigError(
                f"samples={samples} compares noises, but {type(self.network).__name__} has none "
                "that could be drawn anew. Leave samples out."
            )

    def segment(
        self,
        image: Path | str | NDArray[np.uint8] | Picture,
        report: str,
        tile: int | None = None,
        overlap: float = OVERLAP,
        samples: int = 1,
    ) -> Segmentation:
        """Segments an image; the result is held in memory whole, unlike that of :meth:`bands`.

        Args:
            image: A file, see :func:`lcpdn_pl.data.pictures.open_picture`; or 8-bit RGB [H, W, 3]
                or grey [H, W].
            report: Its report; networks that read none ignore it.
            tile: Side of the tiles, in the image's pixels; ``None`` takes the image whole.
            overlap: Share of their side by which tiles overlap at least, 0 to 0.5.
            samples: Noises to compare for the uncertainty; 1 leaves it out. Mask and probability
                are those of the noise that was trained with, whatever their number.

        Raises:
            DataError: If the image cannot be read.
            ConfigError: See :meth:`plan` and :meth:`check_samples`.
        """
        picture = _picture(image)
        tiling = self.plan(picture.height, picture.width, tile, overlap)
        bands = list(self.bands(picture, report, tiling, samples))
        probability = np.concatenate([band.probability for band in bands])
        deviations = [band.uncertainty for band in bands if band.uncertainty is not None]
        return Segmentation(
            (probability > 0.5).astype(np.uint8),
            probability,
            np.concatenate(deviations) if deviations else None,
            Path(picture.name).name,
        )

    def bands(
        self,
        picture: Picture,
        report: str,
        tiling: Tiling,
        samples: int = 1,
        advance: Callable[[], None] = lambda: None,
    ) -> Iterator[Band]:
        """Segments an image from top to bottom, holding one row of tiles at a time.

        Args:
            picture: The image.
            report: See :meth:`segment`.
            tiling: How the image is taken, see :meth:`plan`.
            samples: See :meth:`segment`.
            advance: Called after each tile.

        Yields:
            Bands that follow each other without a gap.
        """
        self.check_samples(samples)
        row_weights, column_weights = tiling.weights()
        ends = [*tiling.tops[1:], tiling.height]
        tile_height = min(tiling.tile[0], tiling.height)
        sums = np.zeros((min(samples, 2), tile_height, tiling.width), np.float32)
        for top, end, down in zip(tiling.tops, ends, row_weights, strict=True):
            strip = picture.rows(top, top + tile_height)
            for left, along in zip(tiling.lefts, column_weights, strict=True):
                columns = slice(left, left + len(along))
                patch = _mirrored(strip[:, columns], tiling.tile)
                found = self._segment_patch(patch, report, samples)[:, : len(down), : len(along)]
                found *= down[:, None]
                found *= along
                sums[:, :, columns] += found
                advance()
            # No tile below reaches these rows.
            done = end - top
            finished = sums[:, :done].clip(0, 1)
            yield Band(top, finished[0], finished[1] if samples > 1 else None)
            sums[:, : tile_height - done] = sums[:, done:]
            sums[:, tile_height - done :] = 0

    @torch.inference_mode()
    def _segment_patch(
        self, patch: NDArray[np.uint8], report: str, samples: int
    ) -> NDArray[np.float32]:
        """Probability and, of several samples, its deviation, [1 or 2, H, W]."""
        image = to_tensor(resize_image(np.ascontiguousarray(patch), self.image_size))
        image = image[None].to(self.device)
        size = patch.shape[0], patch.shape[1]
        trained = self._probability(image, report, size)
        if samples == 1:
            return trained.cpu().numpy()[None]
        # Welford's recurrence: no more than three maps, whatever the number of samples.
        mean, squares = trained.clone(), torch.zeros_like(trained)
        for sample in range(1, samples):
            with _other_noise(self._seeded, sample):
                change = self._probability(image, report, size) - mean
            mean += change / (sample + 1)
            squares += change**2 * (sample / (sample + 1))
        return torch.stack([trained, (squares / samples).sqrt()]).cpu().numpy()

    def _probability(self, image: Tensor, report: str, size: tuple[int, int]) -> Tensor:
        """[H, W] at a size: interpolated as logits, of whose two the difference is enough."""
        logits = shift(self.network(image, [report]).float(), self.threshold)
        difference = logits[:, 1:] - logits[:, :1]
        return F.interpolate(difference, size, mode="bilinear")[0, 0].sigmoid_()


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # the device `meta` makes tensors, but of no values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device={name!r} cannot be used ({reason}). Give another one, such as cpu."
        ) from error
    return device


@contextmanager
def _other_noise(seeded: Sequence[DiffusionFeatures | MedSegDiff], offset: int) -> Iterator[None]:
    """Draws the noise from other seeds than in training."""
    for module in seeded:
        module.noise_seed += offset
    try:
        yield
    finally:
        for module in seeded:
            module.noise_seed -= offset


def _picture(image: Path | str | NDArray[np.uint8] | Picture) -> Picture:
    if isinstance(image, Picture):
        return image
    if isinstance(image, np.ndarray):
        return _ArrayPicture(image)
    return open_picture(Path(image))


def _mirrored(patch: NDArray[np.uint8], tile: tuple[int, int]) -> NDArray[np.uint8]:
    """The patch, continued to a tile's size by its mirror image where the image ends before."""
    below, right = tile[0] - patch.shape[0], tile[1] - patch.shape[1]
    if not below and not right:
        return patch
    padded = cv2.copyMakeBorder(patch, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    return np.asarray(padded, np.uint8)


def is_shipped(checkpoint: Path | str) -> bool:
    """Whether the name is that of the network of this package, and of no file."""
    return str(checkpoint) == NUCLEI and not Path(checkpoint).is_file()


def load(checkpoint: Path | str = NUCLEI, device: str | None = None) -> Segmenter:
    """Loads a trained network to segment images with.

    A run's configuration may have come from elsewhere, so that from here on whatever this process
    parses with jsonargparse imports from a few packages alone, see :mod:`lcpdn_pl.trust`.

    Args:
        checkpoint: A checkpoint in its run folder, such as ``runs/monuseg/lcpdn/STAMP/best.ckpt``,
            a run folder, which stands for that one, or ``nuclei``, the network that comes with this
            package (stained tissue at 40x), see ``shipped/nuclei/README.md``.
        device: See :class:`Segmenter`.

    Raises:
        CheckpointError: If it is missing, unreadable, without its run folder, or of no
            segmentation network.
        WeightsError: If the network that comes with this package is missing or another one.
        ConfigError: If there is no such device.
    """
    path = Path(checkpoint)
    if is_shipped(checkpoint):
        path = embedded(SHIPPED_NUCLEI)
    path = path / BEST if path.is_dir() else path
    task, data = restore(path)
    if not isinstance(task, SegmentationTask) or not isinstance(data, SegmentationDataModule):
        raise CheckpointError(
            f"{checkpoint} is of {type(task).__name__}; expected that of a segmentation run."
        )
    return Segmenter(task.network, data.image_size, device, task.threshold)
