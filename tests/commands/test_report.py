"""``lcpdn report``: tables, and pictures that exist."""

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lcpdn_pl.cli import main
from lcpdn_pl.plotting import Panel, save_panels
from tests.commands.test_results import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of a method, one of another; tests with empty reports and with noise."""
    folder = tmp_path / "runs"
    for name, dice, seed, method in (
        ("a", 70, 0, "lcpdn"),
        ("b", 72, 1, "lcpdn"),
        ("c", 60, 0, "unet"),
    ):
        run = write_run(folder / name, dice, seed, method)
        mask = torch.zeros(8, 8, dtype=torch.long)
        mask[: 2 + seed] = 1
        rows = [(0, 90, 0.1, seed / 9), (14, 10, 0.98, 0.9)]
        bins = pd.DataFrame(rows, columns=["bin", "pixels", "probability", "share"])
        bins.to_csv(run / "test/monuseg/reliability.csv", index=False)
        panel = Panel(torch.zeros(3, 8, 8), "some nuclei", "000", mask, mask.flip(0))
        save_panels([panel], run / "test/monuseg/panels.npz")
        with SummaryWriter(str(run)) as writer:
            for step in range(3):
                writer.add_scalar("train/step_loss", dice / (1 + step), step)
    write_run(folder / "d", 30, 0, reports="empty")
    write_run(folder / "a", 50, 0, corruption=("noise", 2))
    return folder


def test_report_of_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report [mine]"
    main(["report", *(str(runs / name) for name in "abcd"), "--out", str(out)])
    assert str(out / "report.html") in capsys.readouterr().out
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 10
    lines = (out / "results.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    best = "**74.50 ± 1.41** | **37.25 ± 0.71**"
    assert rows[2] == f"| lcpdn | 2 | {best} | {best} | the best | 79.74 / 66.45 |"
    assert rows[3] == (
        "| unet | 1 | 63.50 | 31.75 | 63.50 | 31.75 "
        "| -10.00 (-10.00 to -10.00), p = 0.0078, 1 seed |  |"
    )
    assert rows[4:8] == [
        "| method | trainable | frozen | published | s/image | GiB |",
        "| --- | --- | --- | --- | --- | --- |",
        "| lcpdn | 1,000 | 0 | 4.52 M | 0.50 | 1.00 |",
        "| unet | 1,000 | 0 |  | 0.50 | 1.00 |",
    ]
    assert rows[-1] == "| lcpdn | 74.50 ± 1.41 | 53.50 | 33.50 |"
    assert r"lcpdn & 2 & \textbf{74.50 $\pm$ 1.41} &" in (out / "results.tex").read_text()
    page = (out / "report.html").read_text()
    assert "<strong>74.50 ± 1.41</strong>" in page
    assert page.count("<img ") == 5
    for name in ("convergence", "strength", "reliability", "panels_monuseg", "errors_monuseg"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_a_method_tested_in_one_way_keeps_its_name(runs: Path, tmp_path: Path) -> None:
    """A run that was tested with empty reports alone makes the settings of others differ."""
    write_run(runs / "x", 70, 0, ltfr=True)
    write_run(runs / "y", 72, 1, ltfr=True)
    write_run(runs / "z", 30, 0, reports="empty", ltfr=False)
    main(["report", *(str(runs / name) for name in "xyz"), "--out", str(tmp_path)])
    rows = [r for r in (tmp_path / "results.md").read_text().splitlines() if r.startswith("|")]
    assert rows[2].startswith("| lcpdn | 2 | **74.50 ± 1.41** |")


def native_of_90(run: Path) -> None:
    """Makes a run's mean Dice at the images' own size 90."""
    file = run / "test/monuseg/metrics.csv"
    table = pd.read_csv(file)
    table.loc[table["mask rule"] == "native", "dice"] = 90
    table.to_csv(file, index=False)


def test_bold_is_the_best_of_a_column(runs: Path, tmp_path: Path) -> None:
    native_of_90(runs / "c")
    main(["report", str(runs), "--out", str(tmp_path)])
    rows = [r for r in (tmp_path / "results.md").read_text().splitlines() if r.startswith("|")]
    assert "| 74.50 ± 1.41 | **37.25 ± 0.71** | the best |" in rows[2]
    assert rows[3].startswith("| unet | 1 | 63.50 | 31.75 | **90.00** | 31.75 | -10.00")


def test_networks_of_other_sizes_are_compared_at_the_images_own(runs: Path, tmp_path: Path) -> None:
    write_run(runs / "e", 50, 0, method="lvit", settings={"image_size": 224})
    file = runs / "e/test/monuseg/per_image.csv"
    names = pd.read_csv(file, dtype={"name": str})
    names.assign(**{"native/dice": 0.9}).to_csv(file, index=False)
    native_of_90(runs / "e")
    main(["report", str(runs), "--out", str(tmp_path)])
    rows = [r for r in (tmp_path / "results.md").read_text().splitlines() if r.startswith("|")]
    assert "| to the best (native) |" in rows[0]
    found = {row.split(" | ")[0].removeprefix("| "): row for row in rows[2:5]}
    assert "| the best |" in found["lvit"]
    assert "| -16.50 (" in found["lcpdn"]


def test_published_figures_are_of_what_was_published(runs: Path, tmp_path: Path) -> None:
    write_run(runs / "e", 50, 0, cprfl=True, ltfr=False)
    write_run(runs / "f", 50, 0, cprfl=False, ltfr=False)
    write_run(runs / "g", 50, 0, reads_report=False)
    write_run(runs / "h", 50, 0, data="qata_cov19")
    main(["report", str(runs), "--out", str(tmp_path)])
    rows = [r for r in (tmp_path / "results.md").read_text().splitlines() if r.startswith("|")]
    found = {row.split(" | ")[0].removeprefix("| "): row for row in rows if " seed |" in row}
    assert "| 79.29 |" in found["lcpdn, ltfr=False"]
    assert "| 79.35 |" in found["lcpdn, cprfl=False, ltfr=False"]
    assert found["lcpdn, reads_report=False"].endswith(" |  |")
    # Trained on nuclei, which nobody published.
    (other,) = [row for row in rows if row.startswith("| lcpdn, trained on monuseg | 1 |")]
    assert other.endswith("| the best |  |")


def test_methods_that_do_not_apply_are_said_to(runs: Path, tmp_path: Path) -> None:
    """Beside another published method, that is; not beside LCPDN's own parts and the floors."""
    note = "| c2fvl, not applicable: these reports have no attributes |"
    main(["report", str(runs), "--out", str(tmp_path / "parts")])
    assert note not in (tmp_path / "parts/results.md").read_text()
    write_run(runs / "e", 50, 0, method="lvit")
    main(["report", str(runs), "--out", str(tmp_path / "all")])
    (row,) = [r for r in (tmp_path / "all/results.md").read_text().splitlines() if note in r]
    assert "| 72.14 / 56.91 |" in row


def test_missing_cells_of_a_grid_are_listed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(
        "out: grid\n"
        "tests: {right: '', empty: --data.test_reports empty, four: '', three: '', two: ''}\n"
        "grids: [{method: {unet: a}, seed: {0: b, 1: c, 2: d}}]\n"
    )
    folder = Path("grid/unet/1")
    folder.mkdir(parents=True)
    state = {"fit": ["a", "c"], "fitted": True, "tested": {"right": []}}
    (folder / "cell.json").write_text(json.dumps(state))
    main(["report", str(runs), "--out=r", "--grid=grid.yaml"])
    lines = Path("r/results.md").read_text().splitlines()
    start = lines.index("Missing: 3 of the 3 cells of grid.yaml, looked for in grid:")
    assert lines[start + 4 : start + 9] == [
        "| unet | right | 0, 2 |",
        *(f"| unet | {test} | 0, 1, 2 |" for test in ("empty", "four", "three", "two")),
    ]


def test_pictures_of_other_images_are_left_out(runs: Path, tmp_path: Path) -> None:
    panels = [
        Panel(torch.zeros(3, 8, 8), "", name, torch.zeros(8, 8, dtype=torch.long)) for name in "xy"
    ]
    save_panels(panels, runs / "c/test/monuseg/panels.npz")
    main(["report", str(runs), "--out", str(tmp_path / "report")])
    assert (tmp_path / "report/panels_monuseg.png").is_file()


def test_runs_without_pictures_are_in_the_tables(runs: Path, tmp_path: Path) -> None:
    for name in "abc":
        (runs / name / "test/monuseg/panels.npz").unlink()
    out = tmp_path / "report"
    main(["report", str(runs), "--out", str(out)])
    assert "| lcpdn |" in (out / "results.md").read_text()
    assert (out / "report.html").read_text().count("<img ") == 3
    assert not (out / "panels_monuseg.png").exists()


def test_thresholds_that_were_chosen_have_a_column(runs: Path, tmp_path: Path) -> None:
    for name, threshold in (("a", 0.5), ("b", 0.65)):
        file = runs / name / "test/monuseg/facts.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"threshold": threshold}))
    main(["report", str(runs), "--out", str(tmp_path)])
    lines = (tmp_path / "results.md").read_text().splitlines()
    heading, _, first, second = [line for line in lines if line.startswith("|")][:4]
    assert heading.startswith("| method | seeds | Dice, compat |")
    column = heading.split(" | ").index("threshold")
    assert first.split(" | ")[column] == "0.50 to 0.65"
    assert second.split(" | ")[column] == "0.50"
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table.loc[table["seed"] == 1, "threshold"]) == {0.65}


def test_nothing_is_written_without_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--out", str(tmp_path / "report")])
    assert "holds no tested run" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_run_from_elsewhere_writes_no_code_and_nowhere_else(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = write_run(tmp_path / "runs" / "a", 70, 0, f"m{evil}", widths=evil)
    write_run(tmp_path / "runs" / "b", 60, 0, f"m{evil}", widths=f'"{evil}')
    facts = json.loads((run / "test/monuseg/facts.json").read_text())
    facts["data"] = f'x{evil}/../../../escaped" onload="alert(1)'
    (run / "test/monuseg/facts.json").write_text(json.dumps(facts))
    panel = Panel(torch.zeros(3, 8, 8), evil, evil, torch.zeros(8, 8, dtype=torch.long))
    save_panels([panel], run / "test/monuseg/panels.npz")
    out = tmp_path / "deep" / "report"
    main(["report", str(tmp_path / "runs"), "--out", str(out)])
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3
    assert '" onload' not in page
    assert len(list(out.glob("panels_x*escaped*.png"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "runs"}
    assert [path.name for path in out.parent.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("mebibytes", "found"), [(257, "257 MiB, of at most 256"), (4, "arrays of shapes")]
)
def test_pictures_that_are_none(
    mebibytes: int, found: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "a/test/monuseg/panels.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("image.npy", "w") as member,
    ):
        for _ in range(mebibytes):
            member.write(bytes(2**20))
    with zipfile.ZipFile(path, "a") as packed:
        for name in ("mask", "prediction", "text", "name"):
            packed.writestr(f"{name}.npy", b"1")
    with pytest.raises(SystemExit):
        main(["report", str(runs), "--out", str(tmp_path / "report")])
    assert f"found another file ({found}" in capsys.readouterr().err
