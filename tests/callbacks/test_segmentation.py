"""What a segmentation run leaves behind; the command-line tests look at whole runs."""

import torch

from lcpdn_pl.callbacks.segmentation import panels
from lcpdn_pl.data.dataset import Batch


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
