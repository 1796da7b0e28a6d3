"""`lcpdn prepare` and `lcpdn report-from-mask` on the command line."""

import shutil
from pathlib import Path

import pytest

from lcpdn_pl.cli import main
from lcpdn_pl.data.lvit import read_lvit
from tests.conftest import TreeMaker


def test_from_an_archive_to_data_with_reports(
    tmp_path: Path,
    make_tree: TreeMaker,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = make_tree(tmp_path / "download")
    for table in tree.rglob("*.csv"):
        table.unlink()
    archive = shutil.make_archive(str(tmp_path / "x"), "zip", tree)
    monkeypatch.setenv("LCPDN_DATA_ROOT", str(tmp_path / "data"))
    with pytest.raises(SystemExit):
        main(["prepare", "qata_cov19", archive])
    assert "lcpdn report-from-mask" in capsys.readouterr().err

    main(["prepare", "qata_cov19", archive, "--missing_reports", "keep"])
    text = capsys.readouterr().out
    out = tmp_path / "data" / "QaTa-COV19"
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["train", "4", "4", "0"] in rows
    assert ["test", "3", "3", "0"] in rows
    assert "9 images have no report" in text
    assert "18 files written, 0 were there already." in text

    main(["report-from-mask", str(out), "--wording", "lungs", "--foreground", "[255]"])
    assert "figures measured with them" in " ".join(capsys.readouterr().out.split())
    samples = read_lvit(out)
    assert samples["text"].str.contains("pulmonary infection").all()
    assert (samples["source"] == "mask").all()
    main(["report-from-mask", str(out), "--force"])
    assert read_lvit(out)["text"].str.contains("of the image").all()

    main(["prepare", "qata_cov19", archive, "--out", str(out), "--missing_reports", "keep"])
    assert "0 files written, 18 were there already." in capsys.readouterr().out


def test_reports_from_elsewhere(tmp_path: Path, make_tree: TreeMaker) -> None:
    tree = make_tree(tmp_path / "download")
    (tmp_path / "tables").mkdir()
    for table in tree.rglob("*.csv"):
        shutil.move(table, tmp_path / "tables" / table.name)
    out = tmp_path / "out"
    main(["prepare", "monuseg", str(tree), f"--out={out}", f"--reports={tmp_path / 'tables'}"])
    assert len(read_lvit(out)) == 9
