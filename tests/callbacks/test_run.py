"""What a run shows; ``tests/test_interrupt.py`` and ``test_cli.py`` have its other callbacks."""

from pathlib import Path

import pytest

from lcpdn_pl.cli import main
from tests.test_resume import RUN


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--trainer.max_epochs=2"], ["Epoch 1/1"]),
        (["--trainer.max_steps=10"], ["Step 10/10"]),
        # One's own, and none.
        (["--trainer.max_steps=10", "--trainer.callbacks+=RichProgressBar"], ["Epoch 1/-2"]),
        (["--trainer.max_steps=10", "--trainer.enable_progress_bar=false"], []),
    ],
)
def test_the_bar_tells_how_far_a_run_is(
    arguments: list[str],
    shown: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *RUN, *arguments])
    bars = [line for line in capsys.readouterr().out.splitlines() if "\u2501" in line]
    assert [line.partition("\u2501")[0].strip() for line in bars] == shown
