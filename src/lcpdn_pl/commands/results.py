"""Results that run folders hold, and what they say together."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from lcpdn_pl.callbacks.run import leaves
from lcpdn_pl.errors import RunError
from lcpdn_pl.models import NETWORKS
from lcpdn_pl.tasks import SegmentationTask

METRICS = ("dice", "iou", "dice_global", "iou_global")
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Result:
    """One test of one run.

    Attributes:
        run: The run folder.
        test: Its folder with the test's results.
        settings: The run's configuration, flat: ``model.init_args.network.init_args.ltfr``...
        facts: What the test noted of method, data, parameters, time and memory.
        metrics: One row a mask rule, in percent.
        per_image: One row an image, Dice and IoU by mask rule, in 0..1.
        reliability: One row a bin of the foreground's probability: ``pixels``, the ``probability``
            that they have on average and the ``share`` of them that is foreground; ``None`` for a
            test that did not write it.
    """

    run: Path
    test: Path
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    metrics: pd.DataFrame
    per_image: pd.DataFrame
    reliability: pd.DataFrame | None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed_everything"])

    @property
    def kind(self) -> str:
        """How it was tested: what the reports were, how images were made worse, over turns."""
        parts = [self.facts["test_reports"]]
        if self.facts.get("test_corruption", "none") != "none":
            parts.append(f"{self.facts['test_corruption']} {self.facts['test_strength']}")
        if self.facts.get("test_turns"):
            parts.append("mean over turns")
        return ", ".join(parts)

    @property
    def data(self) -> str:
        """Data set and protocol; the draws of one protocol, which go with seeds, are one."""
        parts = [str(self.facts["data"])]
        protocol = str(self.settings.get("data.init_args.protocol", "paper"))
        if protocol != "paper" and not re.fullmatch(r"draw_\d+", protocol):
            parts.append(protocol)
        if self.train_images is not None:
            parts.append(f"{self.train_images} training images")
        return ", ".join(parts)

    @property
    def train_images(self) -> int | None:
        """How many training images the run was told to use; ``None`` for the protocol's."""
        count = self.settings.get("data.init_args.train_images")
        return None if count is None else int(count)


def read_results(folders: Sequence[Path]) -> list[Result]:
    """Reads every tested run below the folders.

    Raises:
        RunError: If a folder holds no tested run, or files of a run are missing or broken.
    """
    results: dict[Path, Result] = {}  # a run below two of the folders counts once
    for folder in folders:
        tests = sorted(folder.glob("**/test/*/facts.json"))
        if not tests:
            raise RunError(
                f"{folder} holds no tested run; expected RUN/test/DATA/facts.json below it, which "
                "lcpdn test writes. Test the run, or give another folder."
            )
        results |= {path.resolve(): _read(path.parent) for path in tests}
    return list(results.values())


def _read(test: Path) -> Result:
    run = test.parents[1]
    try:
        return Result(
            run,
            test,
            dict(leaves(yaml.safe_load((run / "config.yaml").read_text()))),
            json.loads((test / "facts.json").read_text()),
            pd.read_csv(test / "metrics.csv").set_index("mask rule"),
            pd.read_csv(test / "per_image.csv", dtype={"name": str}).set_index("name"),
            pd.read_csv(bins) if (bins := test / "reliability.csv").is_file() else None,
        )
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise RunError(f"{test} is incomplete ({error}). Run lcpdn test again.") from error


def label_rows(results: Sequence[Result]) -> dict[Path, str]:
    """Names every run after its method and, where runs of one method differ, what differs.

    Seeds, data and where things lie make no difference: only the network, its loss and its
    optimizer do, and how long it is trained.

    Returns:
        Labels by run folder, such as ``lcpdn`` or ``lcpdn, ltfr=False``.
    """
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.data, result.facts["method"]].append(result)
    labels = {}
    for (_, method), group in groups.items():
        keys = {key for result in group for key in result.settings if _names_a_method(key)}
        settings = {
            result.run: {key: str(_setting(result, key)) for key in keys} for result in group
        }
        varied = sorted(key for key in keys if len({s[key] for s in settings.values()}) > 1)
        for run, values in settings.items():
            said = [f"{key.rpartition('.')[2]}={values[key]}" for key in varied]
            labels[run] = ", ".join([method, *said])
    return labels


def _setting(result: Result, key: str) -> Any:
    """A run's setting; an option that came after the run had what is its default now."""
    if key in result.settings:
        return result.settings[key]
    place, _, option = key.rpartition(".")
    owner = NETWORKS.get(result.facts["method"]) if "network" in place else SegmentationTask
    known = signature(owner).parameters if owner else {}
    default = known[option].default if option in known else None
    return list(default) if isinstance(default, tuple) else default


def _names_a_method(key: str) -> bool:
    return key.startswith("model.") or key in {"trainer.max_epochs", "trainer.max_steps"}


def result_table(results: Sequence[Result]) -> pd.DataFrame:
    """One row for each run, test and mask rule: what ``results.csv`` holds."""
    labels = label_rows(results)
    rows = []
    for result in results:
        for rule, figures in result.metrics.iterrows():
            rows.append(
                {
                    "data": result.data,
                    "method": labels[result.run],
                    "test": result.kind,
                    "rule": rule,
                    "seed": result.seed,
                    **{name: figures[name] for name in METRICS},
                    "images": len(result.per_image),
                    "threshold": result.facts.get("threshold", 0.5),
                    **{name: result.facts[name] for name in ("trainable", "frozen", "best_step")},
                    "seconds_per_image": result.facts["seconds_per_image"],
                    "peak_memory_gib": result.facts["peak_memory_gib"],
                    "run": str(result.run),
                }
            )
    return pd.DataFrame(rows)


def strength_scores(results: Sequence[Result]) -> pd.DataFrame:
    """Dice (``compat``) of images made worse: plot (data, how), method, seed, x (strength), dice.

    A test of the images as they are is strength 0 of each way that its run was tested in.
    """
    labels = label_rows(results)
    ways: dict[Path, set[str]] = defaultdict(set)
    for result in results:
        ways[result.run].add(result.facts.get("test_corruption", "none"))
    rows = []
    for result in results:
        way = result.facts.get("test_corruption", "none")
        shown = [way] if way != "none" else sorted(ways[result.run] - {"none"})
        if result.kind not in ("right", f"right, {way} {result.facts.get('test_strength')}"):
            continue
        strength = 0 if way == "none" else result.facts["test_strength"]
        figures = labels[result.run], result.seed, strength, result.metrics.loc["compat", "dice"]
        rows += [(f"{result.data}, {name}", *figures) for name in shown]
    return pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])


def training_scores(results: Sequence[Result]) -> pd.DataFrame:
    """Dice (``compat``) against training images: plot (data), method, seed, x (images), dice."""
    named = [r for r in results if r.train_images is not None and r.kind == "right"]
    labels = label_rows(named)
    rows = [
        (r.facts["data"], labels[r.run], r.seed, r.train_images, r.metrics.loc["compat", "dice"])
        for r in named
    ]
    return pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])


def image_means(results: Sequence[Result], rule: str) -> pd.DataFrame:
    """Dice of each image in percent, mean over seeds: one column a label, right reports alone."""
    labels = label_rows(results)
    columns: dict[str, list[pd.Series]] = defaultdict(list)
    for result in results:
        if result.kind == "right":
            columns[labels[result.run]].append(100 * result.per_image[f"{rule}/dice"])
    return pd.DataFrame({name: pd.concat(c, axis=1).mean(axis=1) for name, c in columns.items()})


def compare(images: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compares every method with one of them over the same images.

    Args:
        images: As of :func:`image_means`.
        reference: The column to compare with.

    Returns:
        One row for each other method: ``difference`` of the mean Dice to the reference, ``low`` and
        ``high`` of its 95 % bootstrap interval (10,000 resamples of images, seed 0), and ``p`` of
        Wilcoxon's signed-rank test, corrected for their number after Holm (1979).
    """
    rows: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(0)
    for name in images.columns.drop(reference):
        paired = images[[reference, name]].dropna()
        differences = (paired[name] - paired[reference]).to_numpy()
        draws = rng.integers(len(differences), size=(_RESAMPLES, len(differences)))
        low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
        rows[name] = {
            "difference": differences.mean(),
            "low": low,
            "high": high,
            "p": wilcoxon(differences).pvalue if differences.any() else 1.0,
        }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high", "p"])
    return table.assign(p=holm(table["p"].to_numpy()))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's correction: the k-th smallest of n is multiplied by n - k + 1, kept monotone."""
    order = np.argsort(p)
    scaled = p[order] * (len(p) - np.arange(len(p)))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected
