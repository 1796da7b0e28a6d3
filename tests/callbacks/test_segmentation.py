"""What a segmentation run leaves behind; the command-line tests look at whole runs."""

import torch

from lcpdn_pl.callbacks.segmentation import BINS, panels, probability_bins
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


def test_probabilities_are_counted() -> None:
    score = torch.logit(torch.tensor([[0.02, 0.98], [0.5, 0.97]], dtype=torch.float64))
    logits = torch.stack([torch.zeros(2, 2), score.float()])[None]
    mask = torch.tensor([[[0, 1], [255, 0]]])
    pixels, probability, foreground = probability_bins(logits, mask)
    assert pixels.tolist() == [1, *[0] * (BINS - 2), 2]
    torch.testing.assert_close(probability[[0, -1]], torch.tensor([0.02, 1.95]).double())
    assert foreground.tolist() == [*[0] * (BINS - 1), 1]
