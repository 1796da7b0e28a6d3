"""Pictures: colours that mean something, panels that survive what is missing."""

import numpy as np
import torch

from lcpdn_pl.plotting import ERRORS, Panel, error_map, overlay, overlay_sheet


def test_error_map_colours_each_kind_of_pixel() -> None:
    prediction = np.array([[True, True, False, False, True]])
    mask = np.array([[1, 0, 1, 0, 255]])
    picture = error_map(prediction, mask)
    wanted = [ERRORS["hit"], ERRORS["false alarm"], ERRORS["miss"], (0, 0, 0), ERRORS["ignored"]]
    assert picture[0].tolist() == [list(color) for color in wanted]


def test_overlay_tints_inside_alone() -> None:
    image = np.full((7, 7, 3), 0.5)
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    tinted = overlay(image, mask, (1.0, 0.0, 0.0))
    assert (tinted[~mask] == 0.5).all()
    np.testing.assert_allclose(tinted[3, 3], [0.675, 0.325, 0.325])
    np.testing.assert_allclose(tinted[1, 1], [0.95, 0.05, 0.05])


def test_sheet_has_a_row_a_panel_also_without_mask_or_report() -> None:
    image, mask = torch.zeros(3, 8, 8), torch.ones(8, 8, dtype=torch.long)
    panels = [Panel(image, "Round.", "a", mask, mask), Panel(image, "", "b", mask)]
    figure = overlay_sheet(panels, "title")
    assert len(figure.axes) == 10
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"a", "Round.", "Dice 100.0", "b", "(empty report)", "no mask given"} == set(texts)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image", "report"]
