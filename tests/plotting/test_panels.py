"""Panels that survive what is missing."""

from pathlib import Path

import torch

from lcpdn_pl.plotting import Panel, load_panels, save_panels


def test_panels_come_back_from_their_file(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 4, 5), generator=generator) / 127.5 - 1
    mask = torch.tensor([[0, 1, 255, 1, 0]] * 4)
    panels = [
        Panel(image, "links, ü", "a b", (mask == 1).long(), mask),
        Panel(-image, "", "c", (mask == 0).long()),
    ]
    save_panels(panels, tmp_path / "panels.npz")
    for found, wanted in zip(load_panels(tmp_path / "panels.npz"), panels, strict=True):
        torch.testing.assert_close(found.image, wanted.image)
        assert (found.text, found.name) == (wanted.text, wanted.name)
        assert torch.equal(found.prediction, wanted.prediction)
    first, second = load_panels(tmp_path / "panels.npz")
    assert first.mask is not None
    assert torch.equal(first.mask, mask)
    assert second.mask is None
