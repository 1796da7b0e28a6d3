"""What results say together: the figures of runs side by side, and whether a difference is one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from lcpdn_pl.commands.results import METRICS, Result

_RESAMPLES = 10_000


def result_table(results: Sequence[Result], labels: Mapping[Path, str]) -> pd.DataFrame:
    """One row for each run, test and mask rule: what ``results.csv`` holds."""
    rows = []
    for result in results:
        for rule, figures in result.metrics.iterrows():
            rows.append(
                {
                    "data": result.data,
                    "method": labels[result.test],
                    "test": result.kind,
                    "rule": rule,
                    "seed": result.seed,
                    "repeat": result.repeat,
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


def strength_scores(results: Sequence[Result], labels: Mapping[Path, str]) -> pd.DataFrame:
    """Dice (``compat``) of images made worse: plot (data, how), method, seed, x (strength), dice.

    A test of the images as they are is strength 0 of each way that its run was tested in.
    """
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
        figures = labels[result.test], result.seed, strength, result.metrics.loc["compat", "dice"]
        rows += [(f"{result.data}, {name}", *figures) for name in shown]
    return pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])


def training_scores(results: Sequence[Result], labels: Mapping[Path, str]) -> pd.DataFrame:
    """Dice (``compat``) against training images: plot (data), method, seed, x (images), dice."""
    named = [r for r in results if r.train_images is not None and r.kind == "right"]
    rows = [
        (r.facts["data"], labels[r.test], r.seed, r.train_images, r.metrics.loc["compat", "dice"])
        for r in named
    ]
    return pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])


def image_scores(results: Sequence[Result], labels: Mapping[Path, str], rule: str) -> pd.DataFrame:
    """Dice of each image in percent: one column a label and repeat, right reports alone.

    Several runs of one repeat count as one, by their mean.
    """
    columns: dict[tuple[str, str], list[pd.Series]] = defaultdict(list)
    for result in results:
        if result.kind == "right":
            key = labels[result.test], result.repeat
            columns[key].append(100 * result.per_image[f"{rule}/dice"])
    return pd.DataFrame({key: pd.concat(c, axis=1).mean(axis=1) for key, c in columns.items()})


def best_method(rows: pd.DataFrame, figure: str) -> str:
    """The method of the highest figure over the repeats that all have; over its own without any.

    Args:
        rows: As of :func:`result_table`, of one data set, test and rule.
        figure: One of ``METRICS``.
    """
    means = rows.pivot_table(index="repeat", columns="method", values=figure)
    shared = means.dropna()
    return str((means if shared.empty else shared).mean().idxmax())


def compare(scores: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compares every method with one of them over the images and seeds that both have.

    Args:
        scores: As of :func:`image_scores`.
        reference: The method to compare with.

    Returns:
        One row for each other method: ``difference`` of the mean Dice to the reference, ``low`` and
        ``high`` of its 95 % bootstrap interval (10,000 resamples of images, seed 0), ``p`` of
        Wilcoxon's signed-rank test, corrected for their number after Holm (1979), and ``seeds``,
        how many both have. Where they share no image or no seed there is no difference: NaN.
    """
    rows: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(0)
    for name in scores.columns.unique(0).drop(reference):
        seeds = scores[name].columns.intersection(scores[reference].columns)
        both = scores[name][seeds] - scores[reference][seeds]
        differences = both.mean(axis=1).dropna().to_numpy()
        if not len(differences):
            rows[name] = {"seeds": 0}
            continue
        draws = rng.integers(len(differences), size=(_RESAMPLES, len(differences)))
        low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
        rows[name] = {
            "difference": differences.mean(),
            "low": low,
            "high": high,
            "p": wilcoxon(differences).pvalue if differences.any() else 1.0,
            "seeds": len(seeds),
        }
    columns = ["difference", "low", "high", "p", "seeds"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    known = table["p"].notna()
    table.loc[known, "p"] = holm(table.loc[known, "p"].to_numpy())
    return table


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's correction: the k-th smallest of n is multiplied by n - k + 1, kept monotone."""
    order = np.argsort(p)
    scaled = p[order] * (len(p) - np.arange(len(p)))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected
