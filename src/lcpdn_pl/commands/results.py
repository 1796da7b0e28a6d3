"""Results that run folders hold, and what each is called beside the others."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lcpdn_pl import data
from lcpdn_pl.errors import RunError
from lcpdn_pl.models import NETWORKS
from lcpdn_pl.settings import FREE_MODEL, leaves
from lcpdn_pl.tasks import SegmentationTask
from lcpdn_pl.tasks.segmentation import RULES
from lcpdn_pl.trust import refuse_endless

_FACTS = {
    **dict.fromkeys(("method", "data", "test_reports"), str),
    **dict.fromkeys(("trainable", "frozen", "best_step"), int),
    **dict.fromkeys(("seconds_per_image", "peak_memory_gib"), float),
}
METRICS = ("dice", "iou", "dice_global", "iou_global")
_DRAW = re.compile(r"draw_\d+")
_SAME_METHOD = {"root", "protocol", "train_images", "num_workers", "turns", "counts"}
"""Settings of the data that make no other method of one."""


@dataclass(frozen=True)
class Result:
    """One test of one run.

    Attributes:
        run: The run folder.
        test: Its folder with the test's results.
        settings: The run's configuration, flat: ``model.init_args.network.init_args.ltfr``...
        facts: What the test noted of method, data, parameters, time and memory.
        metrics: One row a mask rule, in percent.
        per_image: One row an image, Dice by mask rule, in 0..1.
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
    def repeat(self) -> str:
        """Which repetition of a method it is of: the seed, and the draw of training images."""
        protocol = self._protocol
        return f"{self.seed}, {protocol}" if _DRAW.fullmatch(protocol) else str(self.seed)

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
        """Data set that it was tested on, with the protocol where that is the run's own."""
        return str(self.facts["data"]) if self.elsewhere else self.trained_on

    @property
    def elsewhere(self) -> bool:
        """Whether it was tested on other data than the run's own."""
        return self._trained != str(self.facts["data"])

    @property
    def trained_on(self) -> str:
        """Data set and protocol of training; the draws of one protocol are one."""
        parts = [self._trained]
        if self._protocol != "paper" and not _DRAW.fullmatch(self._protocol):
            parts.append(self._protocol)
        if self.train_images is not None:
            parts.append(f"{self.train_images} training images")
        return ", ".join(parts)

    @property
    def _trained(self) -> str:
        """Name of the data set of training, where the configuration tells."""
        if self.module is data.Manifest:
            return Path(str(self.settings.get("data.init_args.root"))).stem
        return str(getattr(self.module, "name", self.facts["data"]))

    @property
    def module(self) -> type:
        """Class of the data of training; the one that all are made of where it is none of ours."""
        name = str(self.settings.get("data.class_path")).rpartition(".")[2]
        module: type = getattr(data, name, data.SegmentationDataModule)
        return module

    @property
    def _protocol(self) -> str:
        return str(self.settings.get("data.init_args.protocol", "paper"))

    @property
    def image_size(self) -> int | None:
        """Side of the images that the network sees, where the configuration says so."""
        size = self.settings.get("data.init_args.image_size")
        return None if size is None else int(size)

    @property
    def train_images(self) -> int | None:
        """How many training images the run was told to use; ``None`` for the protocol's."""
        count = self.settings.get("data.init_args.train_images")
        return None if count is None else int(count)


def read_results(folders: Sequence[Path]) -> list[Result]:
    """Reads every tested run below the folders.

    Raises:
        RunError: If a folder holds no tested run, files of a run are missing or broken, or tests
            have the same data set's name but other images.
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
    first: dict[str, Result] = {}
    for result in results.values():
        one = first.setdefault(result.data, result)
        if set(one.per_image.index).isdisjoint(result.per_image.index):
            raise RunError(
                f"{one.test} and {result.test} are both tests of {result.data!r}, but have no "
                "image in common. Name one of the data sets otherwise and test again, or report "
                "them apart."
            )
    return list(results.values())


def _read(test: Path) -> Result:
    run = test.parents[1]
    try:
        return Result(
            run,
            test,
            _settings(run / "config.yaml"),
            _facts(test / "facts.json"),
            pd.read_csv(test / "metrics.csv").set_index("mask rule").loc[[*RULES], [*METRICS]],
            pd.read_csv(test / "per_image.csv", dtype={"name": str})
            .set_index("name")
            .loc[:, [f"{rule}/dice" for rule in RULES]]
            .astype(float),
            pd.read_csv(bins) if (bins := test / "reliability.csv").is_file() else None,
        )
    except Exception as error:  # readers raise what broken files lead them to
        raise RunError(f"{test} is incomplete ({error}). Run lcpdn test again.") from error


def _settings(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    refuse_endless(path, content)
    settings = dict(leaves(content))
    int(settings["seed_everything"])  # raises where there is no seed
    return settings


def _facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if wrong := [name for name, kind in _FACTS.items() if not isinstance(facts.get(name), kind)]:
        raise ValueError(f"{path} lacks {', '.join(wrong)}")
    return facts


def label_rows(results: Sequence[Result]) -> dict[Path, str]:
    """Names every test after its run's method and what sets it apart from other runs of it.

    That is each setting that has another value than in most of the method's runs on the data; all
    values are named where none is that of most, counted by runs. Seeds and where things lie make no
    difference, nor do time and memory: only the network, its loss and its optimizer do, how images
    are brought to it, and how long it is trained. A run that was trained on other data is named
    after these.

    Returns:
        Labels by the test's folder, such as ``lcpdn``, ``lcpdn, ltfr=False`` or ``lcpdn, trained on
        monuseg``.
    """
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        name = str(result.facts["method"])
        name += f", trained on {result.trained_on}" if result.elsewhere else ""
        groups[result.data, result.trained_on, name].append(result)
    labels = {}
    for (_, _, method), group in groups.items():
        keys = {key for result in group for key in result.settings if _names_a_method(key)}
        settings = {
            result.test: {key: str(_setting(result, key)) for key in keys} for result in group
        }
        runs = {result.run: settings[result.test] for result in group}.values()
        usual = {key: _most_common([values[key] for values in runs]) for key in sorted(keys)}
        for test, values in settings.items():
            apart = [key for key, value in usual.items() if values[key] != value]
            said = [f"{key.rpartition('.')[2]}={values[key]}" for key in apart]
            labels[test] = ", ".join([method, *said])
    return labels


def _most_common(values: Sequence[str]) -> str | None:
    """The value of more of them than any other, if there is one."""
    (value, count), *others = Counter(values).most_common(2)
    return None if others and others[0][1] == count else value


def _setting(result: Result, key: str) -> Any:
    """A run's setting; an option that came after the run had what is its default now."""
    if key in result.settings:
        return result.settings[key]
    place, _, option = key.rpartition(".")
    owner: Any = SegmentationTask
    if "network" in place:
        owner = NETWORKS.get(result.facts["method"])
    elif place.startswith("data."):
        owner = result.module
    known = signature(owner).parameters if owner else {}
    default = known[option].default if option in known else None
    return list(default) if isinstance(default, tuple) else default


def _names_a_method(key: str) -> bool:
    option = key.rpartition(".")[2]
    if key.startswith("data.init_args."):
        return option not in _SAME_METHOD and not option.startswith("test_")
    if option in FREE_MODEL:
        return False
    return key.startswith("model.") or key in {"trainer.max_epochs", "trainer.max_steps"}
