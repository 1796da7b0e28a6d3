"""Run folders together: what they are refused for, and what each is called."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lcpdn_pl.commands.results import label_rows, read_results
from lcpdn_pl.errors import RunError

IMAGES = [f"00{index}" for index in range(8)]


def write_run(
    folder: Path,
    dice: float,
    seed: int = 0,
    method: str = "lcpdn",
    protocol: str = "paper",
    reports: str = "right",
    data: str = "monuseg",
    turns: bool = False,
    corruption: tuple[str, int] = ("none", 1),
    train_images: int | None = None,
    trained: str = "MoNuSeg",
    settings: Mapping[str, Any] = MappingProxyType({}),
    images: Sequence[str] = IMAGES,
    **network: Any,
) -> Path:
    """Writes a tested run without pictures; Dice of image k is ``dice`` + k percent.

    ``settings`` are of its data.
    """
    changes = [] if reports == "right" else [reports]
    changes += [] if corruption[0] == "none" else ["{}{}".format(*corruption)]
    test = folder / "test" / "_".join([data, *changes])
    test.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 2, "default_root_dir": str(folder)},
        "model": {"init_args": {"network": {"init_args": network}}},
        "data": {
            "class_path": f"lcpdn_pl.data.{trained}",
            "init_args": {"protocol": protocol, "train_images": train_images, **settings},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    scores = (dice + np.arange(len(images))) / 100
    table = pd.DataFrame({"name": images})
    for rule in ("compat", "native"):
        table[f"{rule}/dice"], table[f"{rule}/iou"] = scores, scores / 2
    table.to_csv(test / "per_image.csv", index=False)
    mean = 100 * scores.mean()
    names = ("mask rule", "dice", "iou", "dice_global", "iou_global")
    rows = [(rule, mean, mean / 2, mean, mean / 2) for rule in ("compat", "native")]
    pd.DataFrame(rows, columns=names).to_csv(test / "metrics.csv", index=False)
    facts = {
        "method": method,
        "data": data,
        "test_reports": reports,
        "test_turns": turns,
        "test_corruption": corruption[0],
        "test_strength": corruption[1],
        "trainable": 1000,
        "frozen": 0,
        "best_step": 10,
        "seconds_per_image": 0.5,
        "peak_memory_gib": 1.0,
    }
    (test / "facts.json").write_text(json.dumps(facts))
    return folder


def test_rows_are_named_after_what_sets_them_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0, ltfr=True, width=8)
    write_run(tmp_path / "b", 72, 1, ltfr=True, width=8, protocol="draw_1")
    write_run(tmp_path / "c", 60, 0, ltfr=False, width=8)
    write_run(tmp_path / "d", 50, 0, method="unet", widths=[4, 8])
    slices: dict[str, Any] = {"protocol": "by_volume", "trained": "MosMedPlus"}
    write_run(tmp_path / "e", 50, 0, ltfr=False, width=8, data="mosmed_plus", **slices)
    results = read_results([tmp_path])
    labels = {test.parents[1].name: label for test, label in label_rows(results).items()}
    assert labels == {
        "a": "lcpdn",
        "b": "lcpdn",
        "c": "lcpdn, ltfr=False",
        "d": "unet",
        "e": "lcpdn",
    }
    assert [r.data for r in results] == ["monuseg"] * 4 + ["mosmed_plus, by_volume"]


def test_options_that_came_after_a_run_had_their_default(tmp_path: Path) -> None:
    write_run(tmp_path / "old", 70, 0)
    write_run(tmp_path / "new", 70, 1, blocks=[6, 8, 12, 16], reads_report=True, gone=1)
    assert set(label_rows(read_results([tmp_path])).values()) == {
        "lcpdn, gone=None",
        "lcpdn, gone=1",
    }
    write_run(tmp_path / "other", 70, 1, reads_report=False, gone=1)
    found = label_rows(read_results([tmp_path]))
    labels = {test.parents[1].name: label for test, label in found.items()}
    assert labels == {
        "old": "lcpdn, gone=None",
        "new": "lcpdn",
        "other": "lcpdn, reads_report=False",
    }


def test_a_setting_without_a_usual_value_is_named_by_all(tmp_path: Path) -> None:
    """Counted by runs: a run that was tested more often is no usual one."""
    write_run(tmp_path / "a", 70, 0, ltfr=True)
    write_run(tmp_path / "a", 60, 0, ltfr=True, reports="empty")
    write_run(tmp_path / "b", 60, 0, ltfr=False)
    assert set(label_rows(read_results([tmp_path])).values()) == {
        "lcpdn, ltfr=True",
        "lcpdn, ltfr=False",
    }


def test_where_and_how_a_run_was_made_names_no_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0, width=8, feature_cache="here", step_batch=1)
    write_run(tmp_path / "b", 72, 1, width=8, feature_cache="there", compile=True)
    assert set(label_rows(read_results([tmp_path])).values()) == {"lcpdn"}


def test_a_run_may_be_tested_on_other_data(tmp_path: Path) -> None:
    slices: dict[str, Any] = {"protocol": "by_volume", "trained": "MosMedPlus"}
    write_run(tmp_path / "a", 70, 0, data="mosmed_plus", ltfr=True, **slices)
    write_run(tmp_path / "a", 60, 0, data="manifest", ltfr=True, **slices)
    write_run(tmp_path / "b", 50, 0, data="mosmed_plus", ltfr=False, **slices)
    results = read_results([tmp_path])
    assert {(r.data, label_rows(results)[r.test]) for r in results} == {
        ("mosmed_plus, by_volume", "lcpdn, ltfr=True"),
        ("mosmed_plus, by_volume", "lcpdn, ltfr=False"),
        ("manifest", "lcpdn, trained on mosmed_plus, by_volume"),
    }


def test_a_manifest_of_ones_own_is_no_other_data(tmp_path: Path) -> None:
    own: dict[str, Any] = {"trained": "Manifest", "settings": {"root": "/data/lungs.csv"}}
    write_run(tmp_path / "a", 70, 0, data="lungs", **own)
    write_run(tmp_path / "a", 60, 0, data="others", **own)
    results = read_results([tmp_path])
    assert {(r.data, label_rows(results)[r.test]) for r in results} == {
        ("lungs", "lcpdn"),
        ("others", "lcpdn, trained on lungs"),
    }


def test_other_images_under_one_name_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0)
    write_run(tmp_path / "b", 70, 0, images=["x", "y"])
    with pytest.raises(RunError, match=r"both tests of 'monuseg', but have no image in common"):
        read_results([tmp_path])


def test_how_images_are_brought_to_a_network_names_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 70, 0, settings={"augment": "none", "num_workers": 2})
    write_run(tmp_path / "b", 60, 0, settings={"root": "/x"})  # augment is full by default
    assert set(label_rows(read_results([tmp_path])).values()) == {
        "lcpdn, augment=none",
        "lcpdn, augment=full",
    }


def test_folders_without_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no tested run; expected RUN/test/DATA/facts.json"):
        read_results([tmp_path])
    run = write_run(tmp_path / "a", 70)
    (run / "test/monuseg/per_image.csv").unlink()
    with pytest.raises(RunError, match=r"a/test/monuseg is incomplete .*lcpdn test again"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("config.yaml", "seed_everything: 1\na: &a [*a]", "aliases"),
        ("config.yaml", "model: 1", "seed_everything"),
        ("config.yaml", "[" * 5000, "recursion"),
        ("test/monuseg/facts.json", '{"method": "lcpdn"}', "lacks data, test_reports, trainable"),
        ("test/monuseg/metrics.csv", "mask rule,dice\ncompat,1\nnative,1", "iou"),
        ("test/monuseg/per_image.csv", "name,compat/dice\n0,1", "native/dice"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, name: str, content: str, found: str) -> None:
    run = write_run(tmp_path / "a", 70)
    (run / name).write_text(content)
    with pytest.raises(RunError, match=rf"a/test/monuseg is incomplete \(.*{found}"):
        read_results([tmp_path])
