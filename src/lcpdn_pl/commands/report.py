"""``lcpdn report``: tables and pictures from run folders alone."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lcpdn_pl.commands.grid import read_grid
from lcpdn_pl.commands.rendering import Section, html, latex, markdown
from lcpdn_pl.commands.results import Result, label_rows, read_results
from lcpdn_pl.commands.scores import (
    best_method,
    compare,
    image_scores,
    result_table,
    strength_scores,
    training_scores,
)
from lcpdn_pl.files import save_figure, write_whole
from lcpdn_pl.plotting import convergence, load_panels, method_sheet, reliability, score_curves

_NOTE = """\
Test figures in percent, means over images, then mean and deviation over seeds; several runs of one
seed count as one, by their mean. A row is named after its method and the settings that most runs of
the method do not have. `compat` is the mask rule that published figures were scored by, at the size
that a network sees; `native` scores the untouched mask at its own size, by which networks of
different sizes compare. In bold is the best figure of a column over the seeds that all methods
have, which need not be the highest of the means over their own. "to the best" is the difference of
Dice to the method that is best so, by `compat`, or by `native` where networks see images of
different sizes; it is of the images and seeds that both have, whose number it gives, with a 95 %
bootstrap interval over images, and p of Wilcoxon's signed-rank test after Holm's correction. A
threshold, the probability above which a pixel is foreground, is the best one of a run's validation
images; without that column it is 0.5. Published figures were made with other backbones. Trainable
parameters are those that get a gradient; published counts follow several rules, which stand beside
them: by thop, what a profiler sees in a forward pass, is one. Seconds are the network's for one
image, the median over images and then over runs; they and memory, the most that a run took, are of
the machine that tested."""

_PARTS = ("cprfl", "ltfr")
"""Settings of LCPDN whose figures were published, on and off."""


def report(runs: Sequence[Path], out: Path = Path("report"), grid: Path | None = None) -> None:
    """Makes tables and pictures of tested runs.

    Writes `results.csv` (one row for each run, test and mask rule) and, with two tables for each
    data set (mean and deviation over seeds, the best in bold, every method compared with the best
    one over the same images; parameters, time and memory), `results.md`, `results.tex` and
    `report.html`, one page that holds its pictures. These are, where there is something to show,
    `convergence.png` (training loss against the step), `reliability.png` (how often a probability
    is right), `strength.png` (Dice of images made worse) and `low_data.png` (Dice by training
    images) and, for each data set, `panels_DATA.png` (image, report, truth and every method) and
    `errors_DATA.png` (the same images, hits, false alarms and misses).

    Runs of one method that differ in a setting of their model are rows of their own, named after
    the settings that most of its runs do not have. Draws of MoNuSeg's training images count as
    seeds. A test that others had is written as missing, and so are the cells of a grid that are not
    done; a run whose pictures were removed, or are of other images, is in the tables alone.

    Args:
        runs: Folders that hold run folders, at any depth.
        out: Folder to write into; files of an earlier report are replaced.
        grid: A grid of `lcpdn benchmark` whose missing cells are listed.

    Raises:
        RunError: If a folder holds no tested run, or a run is incomplete.
    """
    results = read_results(runs)
    labels = label_rows(results)
    table = result_table(results, labels)
    missing = {} if grid is None else _missing_cells(grid)
    sections = [
        Section("All data sets", _NOTE, missing, _general_figures(results, labels, out)),
        *(
            Section(
                data,
                tables=_tables(data, group, labels, table),
                figures=_panel_figures(data, _first(group, labels), out),
            )
            for data, group in _by_data(results).items()
        ),
    ]
    title = f"Results of {len(results)} tests"
    write_whole(out / "results.csv", table.to_csv(index=False))
    write_whole(out / "results.md", markdown(title, sections))
    write_whole(out / "results.tex", latex(sections))
    write_whole(out / "report.html", html(title, sections))
    told = f"{title}: {out / 'report.html'}, and tables beside it"
    Console().print(told, soft_wrap=True, markup=False)


def _missing_cells(grid: Path) -> dict[str, pd.DataFrame]:
    """What is left to do of a grid: one row for the cells that differ in their last label."""
    left: dict[tuple[str, str], list[str]] = defaultdict(list)
    cells = read_grid(grid)
    for cell in cells:
        row, _, last = cell.name.rpartition("/")
        tested = cell.read().tested
        for test in cell.tests:
            if test not in tested:
                left[row, test].append(last)
    if not left:
        return {}
    rows = [(row, test, ", ".join(last)) for (row, test), last in left.items()]
    count = sum(not cell.done() for cell in cells)
    out = cells[0].folder.parents[cells[0].name.count("/")]
    caption = f"Missing: {count} of the {len(cells)} cells of {grid.name}, looked for in {out}"
    return {caption: pd.DataFrame(rows, columns=["cells", "test", "missing"])}


def _by_data(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.kind == "right":
            groups[result.data].append(result)
    return groups


def _first(group: Sequence[Result], labels: Mapping[Path, str]) -> dict[str, Result]:
    """The result with the smallest seed of each label."""
    first: dict[str, Result] = {}
    for result in sorted(group, key=lambda result: result.seed):
        first.setdefault(labels[result.test], result)
    return first


def _general_figures(
    results: Sequence[Result], labels: Mapping[Path, str], out: Path
) -> dict[str, Path]:
    figures = {}
    curves = _curves(results, labels)
    if not curves.empty:
        caption = "Training loss against the step: mean over seeds, and their range"
        figures[caption] = _drawn(convergence, curves, out / "convergence.png")
    bins = [
        result.reliability.assign(data=result.data, method=labels[result.test])
        for result in results
        if result.kind == "right" and result.reliability is not None
    ]
    strength, training = strength_scores(results, labels), training_scores(results, labels)
    for caption, name, scores, axis in (
        ("Dice of test images made worse", "strength", strength, "strength"),
        ("Dice by training images", "low_data", training, "training images"),
    ):
        if not scores.empty:
            path = out / f"{name}.png"
            save_figure(score_curves(scores, axis), path)
            figures[f"{caption}: mean over seeds, and their range"] = path
    if bins:
        caption = "Reliability: how much of what has a probability is foreground, as trained"
        path = out / "reliability.png"
        figures[caption] = _drawn(reliability, pd.concat(bins), path)
    return figures


def _drawn(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame, path: Path) -> Path:
    save_figure(draw(table), path)
    return path


def _panel_figures(data: str, first: Mapping[str, Result], out: Path) -> dict[str, Path]:
    files = {label: result.test / "panels.npz" for label, result in first.items()}
    panels = {label: load_panels(file) for label, file in files.items() if file.is_file()}
    if not panels:
        return {}
    names = [panel.name for panel in next(iter(panels.values()))]
    panels = {
        label: shown for label, shown in panels.items() if [one.name for one in shown] == names
    }
    # A run that came from elsewhere may call its data anything.
    name = re.sub(r"[^\w.+=-]", "_", data.replace(", ", "_"))
    figures = {}
    for kind, caption in (("panels", "predictions"), ("errors", "errors")):
        path = out / f"{kind}_{name}.png"
        save_figure(method_sheet(panels, f"{data}, one seed", errors=kind == "errors"), path)
        figures[f"{data}: {caption} of one seed, evenly spread over the test images"] = path
    return figures


def _curves(results: Sequence[Result], labels: Mapping[Path, str]) -> pd.DataFrame:
    """Training losses: data, method, seed, step, loss."""
    by_home = sorted(results, key=lambda result: not result.elsewhere)
    runs = {result.run: result for result in by_home}  # named as where it was trained, if it can be
    rows = []
    for run, result in track(runs.items(), "reading curves", transient=True):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        if "train/step_loss" in events.Tags()["scalars"]:
            rows += [
                (result.trained_on, labels[result.test], result.repeat, event.step, event.value)
                for event in events.Scalars("train/step_loss")
            ]
    return pd.DataFrame(rows, columns=["data", "method", "seed", "step", "loss"])


def _tables(
    data: str, group: Sequence[Result], labels: Mapping[Path, str], table: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    ours = table[table["data"] == data]
    right = ours[ours["test"] == "right"]
    first = _first(group, labels)
    published = _read_published(data)
    rows = _score_rows(group, labels, right, published)
    methods = {result.facts["method"] for result in group if not result.elsewhere}
    if len(methods & set(published["method"])) > 1:  # methods, not one method's parts
        for line in published[published["note"].notna()].to_dict("records"):
            if line["method"] not in methods:
                known = {"method": f"{line['method']}, {line['note']}", "published": line["scores"]}
                rows.append(dict.fromkeys(rows[0], "") | known)
    tables = {
        "Dice and IoU": pd.DataFrame(rows),
        "Parameters, time and memory": pd.DataFrame(_cost_rows(first, right, published)),
    }
    others = ours[ours["rule"] == "compat"]
    if (others["test"] != "right").any():
        tables["By what was changed at test time (Dice, compat)"] = pd.DataFrame(_test_rows(others))
    return tables


def _score_rows(
    group: Sequence[Result],
    labels: Mapping[Path, str],
    rows: pd.DataFrame,
    published: pd.DataFrame,
) -> list[dict[str, str]]:
    by_rule = {rule: rows[rows["rule"] == rule] for rule in ("compat", "native")}
    columns = {
        f"{title}, {rule}": (rule, name, best_method(by_rule[rule], name))
        for rule in by_rule
        for name, title in (("dice", "Dice"), ("iou", "IoU"))
    }
    fair = "compat" if len({result.image_size for result in group}) == 1 else "native"
    best = columns[f"Dice, {fair}"][2]
    compared = compare(image_scores(group, labels, fair), best)
    lines = []
    for label, result in _first(group, labels).items():
        own = rows[rows["method"] == label]
        line = {"method": label, "seeds": str(own["repeat"].nunique())}
        for title, (rule, name, highest) in columns.items():
            spread = _spread(own[own["rule"] == rule], name)
            line[title] = f"**{spread}**" if label == highest else spread
        if (rows["threshold"] != 0.5).any():
            low, high = own["threshold"].min(), own["threshold"].max()
            line["threshold"] = f"{low:.2f}" + (f" to {high:.2f}" if high > low else "")
        line[f"to the best ({fair})"] = (
            "the best" if label == best else _difference(compared.loc[label].to_dict())
        )
        line["published"] = _published(published, label, result)["scores"]
        lines.append(line)
    return lines


def _cost_rows(
    first: Mapping[str, Result], rows: pd.DataFrame, published: pd.DataFrame
) -> list[dict[str, str]]:
    lines = []
    for label, result in first.items():
        own = rows[rows["method"] == label]
        lines.append(
            {
                "method": label,
                "trainable": f"{result.facts['trainable']:,}",
                "frozen": f"{result.facts['frozen']:,}",
                "published": _published(published, label, result)["parameters"],
                "s/image": f"{own['seconds_per_image'].median():.2f}",
                "GiB": f"{own['peak_memory_gib'].max():.2f}",
            }
        )
    return lines


def _read_published(data: str) -> pd.DataFrame:
    """Published figures of a data set: method, cprfl, ltfr, parameters, scores and note."""
    table = pd.read_csv(str(resources.files(__package__).joinpath("published.csv")))
    table = table[table["data"] == data]
    iou = table["iou"].map(" / {:.2f}".format, na_action="ignore").fillna("")
    return table.assign(scores=table["dice"].map("{:.2f}".format) + iou)


def _published(published: pd.DataFrame, label: str, result: Result) -> Mapping[Any, str]:
    """Published scores and parameters of a row, empty where it is not what was published."""
    none = {"scores": "", "parameters": ""}
    _, *named = label.split(", ")
    if any(name.partition("=")[0] not in _PARTS for name in named):
        return none
    rows = published[published["method"] == result.facts["method"]]
    for part in _PARTS:
        setting = result.settings.get(f"model.init_args.network.init_args.{part}", True)
        rows = rows[rows[part].isna() | (rows[part] == setting)]
    return none if rows.empty else rows[[*none]].fillna("").iloc[0].to_dict()


def _difference(row: Mapping[Any, Any]) -> str:
    if not row["seeds"]:
        return "no image and seed of both"
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']:.0f} seeds"
    between = f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
    return f"{between}, p = {row['p']:.2g}, {seeds}"


def _test_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Methods that were tested in more than one way, since others have nothing to compare."""
    kinds = list(dict.fromkeys(table["test"]))
    return [
        {"method": str(label)}
        | {kind: _spread(rows[rows["test"] == kind], "dice") for kind in kinds}
        for label, rows in table.groupby("method", sort=False)
        if (rows["test"] != "right").any()
    ]


def _spread(rows: pd.DataFrame, figure: str) -> str:
    """Mean and deviation over repeats, each of them the mean of its runs."""
    if rows.empty:
        return "missing"
    values = rows.groupby("repeat")[figure].mean()
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")
