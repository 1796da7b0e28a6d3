"""What a run leaves behind; the command-line tests look at whole runs."""

from pathlib import Path

import pytest
import torch

from lcpdn_pl.callbacks import panels, write_whole
from lcpdn_pl.data.dataset import Batch


def test_write_whole_leaves_the_old_file_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "table.csv"
    write_whole(path, "old")

    def fail(_path: Path, _content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_panels_bring_masks_to_the_image_and_know_when_there_is_none() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.long)
    mask[0, :4] = 1
    mask[1] = 255
    batch: Batch = {
        "image": torch.zeros(2, 3, 4, 4),
        "mask": mask,
        "text": ["upper", "unknown"],
        "name": ["a", "b"],
    }
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 1, :, :2] = 1
    first, second = panels(batch, logits)
    assert first.mask is not None
    assert first.mask.tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert first.prediction.tolist() == [[1, 1, 0, 0]] * 4
    assert second.mask is None
    assert (second.name, second.text) == ("b", "unknown")
