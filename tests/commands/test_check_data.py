"""``lcpdn check-data`` as a user meets it: sources, tables, JSON, status and picture sheet."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.backbones.catalogue import CATALOGUE
from lcpdn_pl.cli import main
from lcpdn_pl.commands.check_data import PAPER
from lcpdn_pl.data import checks
from lcpdn_pl.data.reports import rewrite_sides
from tests.conftest import TreeMaker

Run = Callable[..., tuple[int, dict[str, Any]]]

CONFIGS = Path(__file__).parents[2] / "configs"
KEYS = {"topic", "level", "key", "message", "remedy", "items", "figures"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with ``--json``; returns its exit status and the object."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        status = 0
        try:
            main(["check-data", *map(str, arguments), "--json"])
        except SystemExit as stop:
            status = int(str(stop.code))
        printed = capsys.readouterr()
        assert printed.err == ""
        return status, json.loads(printed.out)

    return run


@pytest.fixture
def tree(make_tree: TreeMaker, tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", (8, 2, 3))


def found(report: dict[str, Any], key: str, level: str | None = None) -> list[dict[str, Any]]:
    return [
        finding
        for finding in report["findings"]
        if finding["key"] == key and level in (None, finding["level"])
    ]


def configuration(path: Path, data: str, network: str = "") -> Path:
    path.write_text(
        f"trainer:\n  max_epochs: 1\nmodel:\n  class_path: SegmentationTask\n  init_args:\n"
        f"    network:\n      class_path: LCPDN\n      init_args: {{{network}}}\n{data}"
    )
    return path


def test_clean_folder(tree: Path, run: Run) -> None:
    status, report = run(tree)
    assert status == 0
    assert report.keys() == {"source", "status", "levels", "findings"}
    assert report["source"] == str(tree)
    assert report["levels"]["warning"] == report["levels"]["error"] == 0
    assert report["levels"]["ok"] > 10
    assert all(finding.keys() == KEYS for finding in report["findings"])
    assert all(finding["remedy"] == "" for finding in report["findings"])
    # The paper's tokenizer is counted where its files are.
    assert report["status"] in ("ok", "note")
    (embedded, *_) = found(report, "reports.tokens")
    assert embedded["message"].startswith("minilm-l6")
    assert embedded["figures"]["limit"] == 64


def test_all_planted_faults_at_once(tree: Path, run: Run) -> None:
    train, val, test = (tree / f"{split}_Folder" for split in ("Train", "Val", "Test"))
    texts = pd.read_csv(train / "Train_text.csv")
    texts["Description"] = [rewrite_sides(text, "hflip") for text in texts["Description"]]
    texts.loc[0, "Description"] = "Left lung. " + "Round nuclei. " * 100
    texts.to_csv(train / "Train_text.csv", index=False)
    (train / "labelcol/train_2.png").unlink()
    Image.new("L", (40, 40), 0).save(train / "labelcol/train_3.png")
    Image.open(train / "img/train_4.png").save(test / "img/test_0.tif")
    (test / "img/test_0.png").unlink()
    (val / "img/val_1.png").write_bytes(b"no picture")
    for folder, name in ((train, "train_5"), (test, "test_1")):
        slide = f"TCGA-AA-0001-{name}.png"
        (folder / f"img/{name}.png").rename(folder / "img" / slide)
        (folder / f"labelcol/{name}.png").rename(folder / "labelcol" / slide)
        table = next(folder.glob("*.csv"))
        table.write_text(table.read_text().replace(f"{name}.png", slide))
    status, report = run(tree)
    assert status == 1
    assert report["status"] == "error"
    for key, level, item in (
        ("files.listing", "error", "train_2.png"),
        ("files.unreadable", "error", "val_1.png"),
        ("masks.empty", "warning", "train_3"),
        ("reports.tokens", "warning", "train_0 ("),
        ("sides.agree", "warning", "train_1"),
        ("leaks.copies", "error", "train_4 (train) = test_0 (test)"),
        ("leaks.patient", "warning", "TCGA-AA-0001 (train 1, test 1)"),
    ):
        items = [item for finding in found(report, key, level) for item in finding["items"]]
        assert any(item in text for text in items), key
        assert key == "files.unreadable" or all(
            finding["remedy"] for finding in found(report, key, level)
        )


@pytest.mark.parametrize("values", ["127", "[127,255]", "[255]"])
def test_foreground(make_tree: TreeMaker, tmp_path: Path, run: Run, values: str) -> None:
    tree = make_tree(tmp_path, values=(0, 127))
    status, report = run(tree, "--foreground", values if values[0] == "[" else f"[{values}]")
    assert status == ("127" not in values)
    assert bool(found(report, "masks.unexpected", "error")) == status


def test_configuration_decides(
    tree: Path, tmp_path: Path, run: Run, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (
        "data:\n  class_path: QaTaCOV19\n"
        "  init_args: {root: nowhere, protocol: full, image_size: 48}\n"
    )
    network = f"text_encoder: {tiny_bert}, max_tokens: 7"
    config = configuration(tmp_path / "run.yaml", data, network)
    monkeypatch.chdir(tmp_path)
    status, report = run(config)
    assert status == 1
    (finding,) = report["findings"]
    assert "nowhere" in finding["items"][0]
    status, report = run(config, "--root", tree)
    assert status == 0
    assert found(report, "splits.counts")[0]["figures"] == {"train": 8, "val": 2, "test": 3}
    assert "image_size: 48" in found(report, "images.enlarged", "note")[0]["message"]
    cut = found(report, "reports.tokens", "warning")
    assert {finding["figures"]["limit"] for finding in cut} == {7}
    assert cut[0]["message"].startswith(tiny_bert)
    config.write_text(config.read_text().replace("protocol: full", "protocol: paper"))
    status, report = run(config, "--root", tree)
    assert status == 1
    assert len(found(report, "protocol.names", "error")[0]["items"]) == 230


def test_images_that_a_run_trains_on_beyond_its_protocol(
    tree: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [("train_0", "train"), ("val_0", "val"), ("test_0", "test")]
    protocol = pd.DataFrame(names, columns=["name", "split"])
    for place in ("data.public", "commands.sources"):
        monkeypatch.setattr(f"lcpdn_pl.{place}.read_protocol", lambda _name: protocol)
    config = configuration(
        tmp_path / "run.yaml",
        f"data:\n  class_path: MoNuSeg\n  init_args: {{root: {tree}, train_images: 3}}\n",
    )
    status, report = run(config)
    assert status == 0
    assert found(report, "splits.counts")[0]["figures"] == {"train": 3, "val": 1, "test": 1}
    (tree / "Train_Folder/img/train_2.png").write_bytes(b"")
    status, report = run(config)
    assert status == 1
    assert "train_2.png" in found(report, "files.unreadable", "error")[0]["items"][0]
    Image.new("RGB", (40, 40)).save(tree / "Val_Folder/img/train_0.png")
    Image.new("L", (40, 40)).save(tree / "Val_Folder/labelcol/train_0.png")
    with (tree / "Val_Folder/Val_text.csv").open("a") as table:
        table.write("train_0.png,One nucleus.\n")
    status, report = run(config)
    assert status == 1
    (twice,) = found(report, "names.twice", "error")[0]["items"]
    assert twice.startswith("train_0 (")
    (tree / "Test_Folder/img/test_0.png").rename(tree / "Test_Folder/img/other.png")
    status, report = run(config)
    assert found(report, "files.listing", "error")
    assert found(report, "protocol.names", "error")[0]["items"] == ["test_0"]


def test_tokenizers_are_looked_for_where_encoders_are(
    tree: Path, tmp_path: Path, run: Run, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCPDN_WEIGHTS", str(tmp_path / "weights"))
    fetched = CATALOGUE[PAPER].path
    shutil.copytree(tiny_bert, fetched.parent)
    fetched.touch()
    own = tmp_path / "bert@home"
    shutil.copytree(tiny_bert, own)
    data = f"data:\n  class_path: QaTaCOV19\n  init_args: {{root: {tree}, protocol: full}}\n"
    config = configuration(tmp_path / "run.yaml", data, f"text_encoder: {own}, max_tokens: 7")
    _, report = run(config)
    told = [finding["message"] for finding in found(report, "reports.tokens")]
    assert not any("is not on this machine" in message for message in told)
    for encoder in (str(own), "minilm-l6", "emilyalsentzer/Bio_ClinicalBERT"):
        assert any(message.startswith(f"{encoder}: ") for message in told), (encoder, told)


def test_masks_of_a_configuration(make_tree: TreeMaker, tmp_path: Path, run: Run) -> None:
    tree = make_tree(tmp_path / "tree", values=(0, 127))
    for module, status in (("MosMedPlus", 0), ("QaTaCOV19", 1)):
        config = configuration(
            tmp_path / f"{module}.yaml",
            f"data:\n  class_path: {module}\n  init_args: {{root: {tree}, protocol: full}}\n",
        )
        assert run(config)[0] == status


def manifest_of(tree: Path) -> Path:
    """A manifest of a tree's images, beside its splits."""
    rows = [
        {
            "image": str(path.relative_to(tree)),
            "mask": str(path.relative_to(tree)).replace("img", "labelcol"),
            "text": f"Disc {path.stem}.",
            "split": path.parts[-3].split("_")[0].lower(),
        }
        for path in sorted(tree.rglob("img/*.png"))
    ]
    path = tree / "own.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_manifest(make_tree: TreeMaker, tmp_path: Path, run: Run) -> None:
    path = manifest_of(make_tree(tmp_path))
    status, report = run(path)
    assert (status, report["levels"]["warning"]) == (0, 0)
    config = configuration(
        tmp_path / "run.yaml",
        f"data:\n  class_path: Manifest\n  init_args: {{root: {path}, foreground: [3]}}\n",
    )
    status, report = run(config)
    assert status == 1
    assert len(found(report, "masks.unexpected", "error")[0]["items"]) == 9
    rows = pd.read_csv(path)
    rows.loc[0, "image"], rows.loc[1, "mask"] = "gone.png", "lost.png"
    rows.to_csv(path, index=False)
    status, report = run(path)
    (listed,) = found(report, "files.listing", "error")
    assert [Path(item.split(" (")[0]).name for item in listed["items"]] == ["gone.png", "lost.png"]
    assert found(report, "files.unreadable") == []  # each fault once


def test_masks_of_a_manifest_are_as_training_takes_them(
    make_tree: TreeMaker, tmp_path: Path, run: Run
) -> None:
    path = manifest_of(make_tree(tmp_path, values=(0, 3)))
    status, report = run(path)
    assert status == 1
    assert len(found(report, "masks.unexpected", "error")[0]["items"]) == 9
    assert run(path, "--foreground", "[3]")[0] == 0


def test_phantoms_are_drawn_and_clean(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path))
    config = configuration(
        tmp_path / "demo.yaml",
        "data:\n  class_path: Phantom\n  init_args: {counts: [12, 3, 6], image_size: 64}\n",
    )
    status, report = run(config)
    assert status == 0
    assert report["levels"]["warning"] == 0
    assert found(report, "splits.counts")[0]["figures"] == {"train": 12, "val": 3, "test": 6}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model: {}\n", "section data"),
        ("- data\n", "section data"),
        ("data: [\n", "unreadable"),
        ("data:\n  class_path: Nothing\n", "Nothing"),
        ("data:\n  class_path: MoNuSeg\n  init_args: {protocol: mine}\n", "draw_1"),
        (
            "data:\n  class_path: ImagePool\n  init_args: {sources: [{path: x}]}\n",
            "found ImagePool",
        ),
        (
            "data: {class_path: Phantom, init_args: {counts: [1, 1, 1], root: here}}\n"
            "model: {init_args: {network: {init_args: {text_encoder: [a]}}}}\n",
            "text_encoder is ['a'] and max_tokens None: expected a name",
        ),
        (
            "data: {class_path: Phantom, init_args: {counts: [1, 1, 1], root: here}}\n"
            "model: {init_args: {network: {init_args: {max_tokens: x}}}}\n",
            "max_tokens 'x': expected a name or a folder, and a number",
        ),
        (None, "unreadable"),
    ],
)
def test_configurations_that_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match="1"):
        main(["check-data", str(path)])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "run.yaml" in printed.err or "protocol" in printed.err
    assert told in printed.err


def test_tables(make_tree: TreeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "a folder [of mine]" / ("long_name_" * 9), (8, 2, 3))
    for index in range(8):
        (tree / f"Train_Folder/labelcol/train_{index}.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        main(["check-data", str(tree)])
    printed = capsys.readouterr().out
    topics = ("files", "splits", "images", "masks", "reports", "sides", "names", "leaks")
    assert [line.split()[0] for line in printed.splitlines() if line[1:2].isalpha()][:9] == [
        "topic",
        *topics,
    ]
    for index in range(8):
        assert f"train_{index}.png" in printed.replace("\n", "").replace(" ", "")
    assert "1 error" in printed.splitlines()[-1]


def test_sheet(tree: Path, tmp_path: Path, run: Run) -> None:
    (tree / "Train_Folder/img/train_1.png").write_bytes(b"")
    sheets = [tmp_path / "deep" / f"{name}.png" for name in ("one", "same", "other")]
    for sheet, seed in zip(sheets, (0, 0, 5), strict=True):
        assert run(tree, "--sheet", sheet, "--sheet_seed", seed)[0] == 1
    one, same, other = (np.array(Image.open(sheet)) for sheet in sheets)
    assert one.std() > 10
    green = (one[..., 1].astype(int) - one[..., 0] > 60).mean()
    assert 0.001 < green < 0.1  # the masks
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("file", ["tree/Test_Folder/img/test_0.png", "notes.txt"])
def test_a_sheet_replaces_nothing_else(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    monkeypatch.chdir(tree.parent)
    with pytest.raises(SystemExit, match="1"):
        main(["check-data", "tree", f"--sheet={file}"])
    assert f"sheet={file}: expected a new picture file" in capsys.readouterr().err
    with Image.open("tree/Test_Folder/img/test_0.png") as image:
        assert image.size == (40, 40)


def test_another_root_for_data_that_are_a_name(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("data: MoNuSeg\n")
    _, report = run(config, "--root", tmp_path / "nowhere")
    assert "nowhere" in str(report)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "counts", "size", "values"),
    [
        ("MoNuSeg", (24, 6, 14), 1000, "0 255"),
        ("QaTa-COV19", (500, 120, 200), 224, "0 255"),
        ("MosMedDataPlus", (150, 20, 48), 400, "0 127 255"),
    ],
)
def test_real_sets(
    name: str,
    counts: tuple[int, int, int],
    size: int,
    values: str,
    real_data: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "QaTa-COV19":  # its pairs take long, and tests/data/test_checks.py finds them
        monkeypatch.setattr(checks, "check_twins", lambda *_: [])
    status, report = run(real_data / name)
    assert status == 0
    splits = dict(zip(("train", "val", "test"), counts, strict=True))
    total = sum(counts)
    assert found(report, "splits.counts")[0]["figures"] == splits
    assert found(report, "images.sizes")[0]["figures"] == {f"{size}x{size}": total}
    assert list(found(report, "masks.values")[0]["figures"]) == values.split()
    assert found(report, "reports.distinct")[0]["figures"]["reports"] == total
    for finding in found(report, "sides.agree"):
        assert finding["level"] == "ok"
        assert finding["figures"]["share"] >= 0.83
    kinds = found(report, "images.kinds")[0]["figures"]
    assert kinds == ({"PNG RGB": 30, "TIFF RGB": 14} if name == "MoNuSeg" else {"PNG L": total})
    assert found(report, "protocol.names")
    assert all(finding["level"] == "ok" for finding in found(report, "protocol.names"))
    assert found(report, "leaks.copies")[0]["level"] == "ok"
    assert found(report, "leaks.twins", "warning") == []
    assert found(report, "masks.shifted") == []
    patients = found(report, "leaks.patient")[0]
    if name == "QaTa-COV19":  # no patient of the test split is among them
        assert len(patients["items"]) == 18
        assert all("test" not in item for item in patients["items"])
    else:
        assert patients["level"] == "ok"


@pytest.mark.real
def test_mixed_protocol_shares_volumes(real_data: Path, tmp_path: Path, run: Run) -> None:
    config = tmp_path / "mixed.yaml"
    text = (CONFIGS / "mosmed_plus.yaml").read_text()
    config.write_text(text.replace("protocol: by_volume", "protocol: paper"))
    status, report = run(config, "--root", real_data / "MosMedDataPlus")
    assert status == 0
    assert len(found(report, "leaks.patient", "warning")[0]["items"]) == 7
    assert len(found(report, "leaks.twins", "warning")[0]["items"]) > 50
