"""``lcpdn segment``: a trained network on one's own images, of any size."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from lcpdn_pl.data.pictures import Picture, open_picture
from lcpdn_pl.errors import ConfigError
from lcpdn_pl.inference import NUCLEI, OVERLAP, Band, is_shipped, load
from lcpdn_pl.plotting import PREDICTION, overlay
from lcpdn_pl.rasters import HALF, RowFile, bands, raster_suffix, sixteen_bit, write_raster

_SUFFIXES = (
    *(".nii.gz", ".nii", ".dcm", ".dicom"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
)


@dataclass(frozen=True)
class _Job:
    """One image: where it is, its size, and what is written for it, by kind."""

    path: Path
    height: int
    width: int
    outputs: dict[str, Path]


def segment(
    images: Sequence[Path],
    report: str | None = None,
    ckpt: Path = Path(NUCLEI),
    out: Path = Path("segmented"),
    tile: int | None = None,
    overlap: float = OVERLAP,
    samples: int = 1,
    slice: int | None = None,
    window: tuple[float, float] | None = None,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Segments images with a trained network.

    Writes for each image, at the image's own size, `NAME_mask` (0 or 255), `NAME_probability`
    (16-bit grey, 65535 is 1), `NAME_overlay` and, with several samples, `NAME_uncertainty` (16-bit
    grey, 65535 is a deviation of 1). They are PNG files, or tiled BigTIFF above 67 million pixels.

    An image is taken whole, resized as in training, unless `--tile` says how many of its pixels a
    tile has across. Choose as many as the training images had: 1000 for images like MoNuSeg's, at
    the same magnification. Smaller tiles show the network everything larger than it has learnt.

    PNG, JPEG, BMP, TIFF, DICOM and NIfTI are read. Memory grows with the tile and the image's
    width, not with its height: use tiles, and a TIFF of tiles or strips, for images of any size.

    Args:
        images: Files to segment.
        report: Report of these images; `""` for none.
        ckpt: Checkpoint in its run folder, or that folder, as `lcpdn fit` left it; `nuclei` comes
            with the package and is for stained tissue at 40x, with `--tile 1000`.
        out: Folder to write into.
        tile: Side of overlapping tiles in pixels of the image; by default it is taken whole.
        overlap: Share of their side by which tiles overlap at least.
        samples: Noises to compare for the uncertainty; mask and probability are of the first one.
        slice: Slice of a DICOM or NIfTI volume, from 0; of NIfTI axial ones, counted from below.
        window: Center and width of the values of a DICOM or NIfTI slice that become black to white;
            by default what the file says, or all values.
        device: Where to run, such as `cpu` or `cuda:1`; by default on a GPU if there is one.
        force: Replace files that are there.

    Raises:
        ConfigError: If an argument is missing or does not apply, or files would be replaced.
        DataError: If an image cannot be read.
        CheckpointError: If the checkpoint cannot be used.
    """
    if report is None:
        raise ConfigError('Give --report "..." with what the report says, or --report "" for none.')

    def opened(path: Path) -> Picture:
        return open_picture(path, slice, window)

    jobs = _plan_outputs(images, opened, out, slice, samples)
    _refuse_overwriting(jobs, out, force)
    segmenter = load(ckpt, device)
    segmenter.check_samples(samples)
    tilings = [segmenter.plan(job.height, job.width, tile, overlap) for job in jobs]
    out.mkdir(parents=True, exist_ok=True)
    _check_room(jobs, out)
    console = Console(soft_wrap=True, highlight=False)
    if is_shipped(ckpt):
        console.print("Network: nuclei in stained tissue, as shipped. --ckpt takes another one.")
    with _progress_bar(console) as progress:
        everything = progress.add_task("images", total=len(jobs))
        for job, tiling in zip(jobs, tilings, strict=True):
            picture = opened(job.path)
            task = progress.add_task(job.path.name, total=tiling.count)
            with TemporaryDirectory(prefix=".segment-", dir=out) as folder:
                work = _Work(picture, job, Path(folder))
                advance = partial(progress.advance, task)
                work.keep(segmenter.bands(picture, report, tiling, samples, advance))
                progress.update(task, description=f"{job.path.name}: writing")
                share = work.write()
            progress.remove_task(task)
            progress.advance(everything)
            told = [
                f"{job.height} x {job.width} pixels",
                f"{tiling.count} tiles of {tile}" if tile else "taken whole",
                f"{max(tiling.tile) / segmenter.image_size:.3g} pixels to one of the network's",
                *([picture.note] if picture.note else []),
                f"{100 * share:.1f} % foreground",
            ]
            console.print(f"{job.path}: {', '.join(told)}", markup=False)
    console.print(f"Masks, probabilities and overlays: {out}", markup=False)


def _progress_bar(console: Console) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=float("inf"),  # of images that take minutes all count
    )


def _plan_outputs(
    images: Sequence[Path],
    opened: Callable[[Path], Picture],
    out: Path,
    slice: int | None,
    samples: int,
) -> list[_Job]:
    """Opens the headers and names the outputs.

    Raises:
        ConfigError: If two images have the same name.
    """
    kinds = ["mask", "probability", "overlay", *(["uncertainty"] if samples > 1 else [])]
    jobs: dict[str, _Job] = {}
    for path in images:
        picture = opened(path)
        name = _stem(path) if slice is None else f"{_stem(path)}_slice{slice}"
        suffix = raster_suffix(picture.height, picture.width)
        outputs = {kind: out / f"{name}_{kind}{suffix}" for kind in kinds}
        if name in jobs:
            raise ConfigError(
                f"{jobs[name].path} and {path} would be written to the same files, "
                f"{outputs['mask']}. Segment them into folders of their own."
            )
        jobs[name] = _Job(path, picture.height, picture.width, outputs)
    return list(jobs.values())


def _stem(path: Path) -> str:
    """The name without its format's ending; `IM.0001` is a name as scanners give them."""
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def _refuse_overwriting(jobs: Sequence[_Job], out: Path, force: bool) -> None:
    outputs = [path for job in jobs for path in job.outputs.values()]
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; expected a folder to write into. Give another --out.")
    for path in outputs:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; expected no such one. Give another --out.")
    there = [str(path) for path in outputs if path.exists()]
    if there and not force:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise ConfigError(
            f"These files are there already: {', '.join(there[:3])}{more}. Give another --out, or "
            "--force to replace them."
        )
    inputs = {job.path.resolve() for job in jobs}
    for path in outputs:
        if path.resolve() in inputs:
            raise ConfigError(f"{path} is an image to segment. Give another --out.")


def _check_room(jobs: Sequence[_Job], out: Path) -> None:
    """Bytes a pixel: 2 for each number that is kept meanwhile, and the outputs uncompressed."""
    pixels = [job.height * job.width for job in jobs]
    numbers = len(jobs[0].outputs) - 2
    needed = sum(pixels) * (2 * numbers + 4) + max(pixels) * 2 * numbers
    free = shutil.disk_usage(out).free
    if needed > free:
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        raise ConfigError(
            f"{jobs[0].path}{more}: the results may need {needed / 2**30:.1f} GiB in {out}, where "
            f"{free / 2**30:.1f} GiB are free. Make room, or give another --out."
        )


class _Work:
    """One image's results: numbers by rows in a folder first, then the files made of them."""

    def __init__(self, picture: Picture, job: _Job, folder: Path) -> None:
        self.picture = picture
        self.job = job
        self.folder = folder
        self.probability = RowFile(folder / "probability", job.width)
        self.uncertainty = RowFile(folder / "uncertainty", job.width)

    def keep(self, found: Iterable[Band]) -> None:
        """Keeps probability and uncertainty as 16-bit numbers."""
        for band in found:
            self.probability.append(sixteen_bit(band.probability))
            if band.uncertainty is not None:
                self.uncertainty.append(sixteen_bit(band.uncertainty))

    def write(self) -> float:
        """Writes all files, moves them to their places, and returns the foreground's share."""
        self._foreground = 0
        content: dict[str, Iterable[NDArray[Any]]] = {
            "mask": self._mask(),
            "probability": self._numbers(self.probability),
            "overlay": self._overlay(),
            "uncertainty": self._numbers(self.uncertainty),
        }
        written = {}
        for kind, path in self.job.outputs.items():
            written[self.folder / path.name] = path
            write_raster(self.folder / path.name, content[kind], self.job.height, self.job.width)
        for whole, path in written.items():
            whole.replace(path)
        return self._foreground / (self.job.height * self.job.width)

    def _numbers(self, numbers: RowFile) -> Iterator[NDArray[np.uint16]]:
        for top, bottom in bands(self.job.height):
            yield numbers.rows(top, bottom)

    def _mask(self) -> Iterator[NDArray[np.uint8]]:
        for band in self._numbers(self.probability):
            foreground = band > HALF
            self._foreground += int(foreground.sum())
            yield np.where(foreground, np.uint8(255), np.uint8(0))

    def _overlay(self) -> Iterator[NDArray[np.uint8]]:
        for top, bottom in bands(self.job.height):
            # A row more on either side: a border is where the neighbour is another.
            above, below = min(top, 1), min(self.job.height - bottom, 1)
            mask = self.probability.rows(top - above, bottom + below) > HALF
            image = np.pad(self.picture.rows(top, bottom), ((above, below), (0, 0), (0, 0)))
            drawn = overlay(image / 255, mask, PREDICTION)[above : above + bottom - top]
            yield np.asarray(np.rint(drawn * 255), np.uint8)
