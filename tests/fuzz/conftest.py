"""What cases share: a folder to write into, a trained run, and a process that allows no code."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcpdn_pl.cli import main
from lcpdn_pl.trust import ALLOW
from tests.conftest import TreeMaker
from tests.test_restore import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each case replaces the files of the one before."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="session")
def trained(make_tree: TreeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    place = tmp_path_factory.mktemp("trained")
    main(
        [
            "fit",
            f"--config={TINY}",
            "--model.network=Pixels",
            "--model.network.head_widths=[4,4]",
            "--data=MoNuSeg",
            f"--data.root={make_tree(place / 'tree', counts=(1, 1, 1))}",
            "--data.protocol=full",
            "--data.image_size=16",
            "--trainer.max_epochs=1",
            f"--run_folder={place / 'run'}",
        ]
    )
    return place / "run"


@pytest.fixture(scope="module")
def run(trained: Path, folder: Path) -> Path:
    """A copy of its configuration and checkpoint, whose files each case replaces."""
    (folder / "run").mkdir()
    for name in ("config.yaml", "last.ckpt"):
        shutil.copy(trained / name, folder / "run")
    return folder / "run"


@pytest.fixture(autouse=True, scope="package")
def no_code() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ALLOW, raising=False)
        yield
