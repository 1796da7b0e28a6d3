"""Sheets: colours that mean something, each picture in its place."""

from itertools import pairwise

import numpy as np
import torch

from lcpdn_pl.plotting import (
    ERRORS,
    Panel,
    error_map,
    image_grid,
    method_sheet,
    overlay,
    overlay_sheet,
)


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


def test_error_map_greys_every_ignored_pixel() -> None:
    prediction = np.array([[True, False], [False, True]])
    picture = error_map(prediction, np.array([[255, 255], [0, 1]]))
    assert (picture[0] == ERRORS["ignored"]).all()
    assert picture.shape == (2, 2, 3)
    assert picture[1].tolist() == [[0, 0, 0], list(ERRORS["hit"])]


def test_overlay_leaves_its_image_alone() -> None:
    image = np.random.default_rng(0).random((6, 5, 3))
    before = image.copy()
    assert np.array_equal(overlay(image, np.zeros((6, 5), bool), (1.0, 0.0, 0.0)), image)
    full = overlay(image, np.ones((6, 5), bool), (0.0, 1.0, 0.0))  # no border at the picture's edge
    np.testing.assert_allclose(full, 0.65 * image + np.array([0, 0.35, 0]))
    assert np.array_equal(image, before)


def test_sheet_puts_each_picture_in_its_column() -> None:
    image = torch.full((3, 8, 8), -1.0)
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[2:6, 2:6], mask[7] = 1, 255
    prediction = torch.zeros_like(mask)
    prediction[2:6, 4:8] = 1
    panels = [Panel(image, "Round.", "a", prediction, mask), Panel(image, "", "b", prediction)]
    axes = np.reshape(np.array(overlay_sheet(panels, "title").axes, object), (2, 5))
    assert [[len(axis.images) for axis in row] for row in axes] == [
        [1, 0, 1, 1, 1],
        [1, 0, 0, 1, 0],
    ]
    shown = np.asarray(axes[0, 4].images[0].get_array())
    np.testing.assert_allclose(shown, error_map(prediction.numpy() == 1, mask.numpy()))
    assert np.asarray(axes[0, 0].images[0].get_array()).max() == 0
    for column, painted in ((2, mask == 1), (3, prediction == 1)):
        picture = np.asarray(axes[0, column].images[0].get_array())
        assert np.array_equal(picture.any(axis=-1), painted.numpy())
    assert [text.get_text() for text in axes[0, 3].texts] == ["Dice 50.0"]


def test_what_holds_no_picture_is_as_large_as_one_also_under_a_long_name() -> None:
    image, prediction = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.long)
    figure = overlay_sheet([Panel(image, "Round.", 60 * "n", prediction)], "title")
    figure.draw_without_rendering()
    boxes = [axis.get_position() for axis in figure.axes[:4]]  # image, report, truth, prediction
    for box in boxes[1:]:
        np.testing.assert_allclose(
            [box.y0, box.y1, box.width], [*boxes[0].intervaly, boxes[0].width]
        )
    gaps = [after.x0 - before.x1 for before, after in pairwise(boxes)]
    np.testing.assert_allclose(gaps, gaps[0])


def test_sheet_has_a_row_a_panel_also_without_mask_or_report() -> None:
    image, mask = torch.zeros(3, 8, 8), torch.ones(8, 8, dtype=torch.long)
    panels = [Panel(image, "Round.", "a", mask, mask), Panel(image, "", "b", mask)]
    figure = overlay_sheet(panels, "title")
    assert len(figure.axes) == 10
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"a", "Round.", "Dice 100.0", "b", "(empty report)", "no mask given"} == set(texts)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image", "report"]


def test_grid_shows_each_image_in_its_own_place() -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figure = image_grid(images, "samples after 10 steps")
    assert len(figure.axes) == 6  # 2 rows of 3, the last one empty
    assert [len(axis.images) for axis in figure.axes] == [1] * 5 + [0]
    for axis, image in zip(figure.axes, images, strict=False):
        shown = np.asarray(axis.images[0].get_array())
        np.testing.assert_allclose(shown, (image.numpy().transpose(1, 2, 0) + 1) / 2, atol=1e-6)
    assert figure.get_suptitle() == "samples after 10 steps"
    assert len(image_grid(images[:1], "one").axes) == 1


def test_methods_have_a_column_each_of_predictions_or_errors() -> None:
    mask = torch.zeros(4, 4, dtype=torch.long)
    mask[0] = 1
    panels = {
        "right": [Panel(torch.zeros(3, 4, 4), "top", "a", mask, mask)],
        "wrong": [Panel(torch.zeros(3, 4, 4), "top", "a", mask.flip(0), mask)],
    }
    plain, errors = method_sheet(panels, "t"), method_sheet(panels, "t", errors=True)
    for sheet in (plain, errors):
        titles = [axes.get_title() for axes in sheet.axes]
        assert titles == ["image", "report", "truth", "right", "wrong"]
    shown = np.asarray(errors.axes[4].get_images()[0].get_array())
    assert shown[0, 0].tolist() == list(ERRORS["miss"])
    assert shown[3, 0].tolist() == list(ERRORS["false alarm"])
    assert "Dice 0.0" in {text.get_text() for text in plain.axes[4].texts}
    assert [len(sheet.legends) for sheet in (plain, errors)] == [0, 1]
