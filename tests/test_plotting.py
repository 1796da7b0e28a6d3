"""Pictures: colours that mean something, panels that survive what is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lcpdn_pl.plotting import (
    ERRORS,
    SMOOTHED,
    Panel,
    convergence,
    error_map,
    image_grid,
    load_panels,
    loss_curves,
    method_sheet,
    overlay,
    overlay_sheet,
    reliability,
    save_panels,
    score_curves,
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


def test_curves_have_a_line_a_range_and_the_mean() -> None:
    curve = pd.DataFrame(
        {
            "step": [10, 20],
            "hours": [1.0, 2.0],
            "loss_000_099": [0.5, 0.4],
            "loss_600_999": [0.1, 0.05],
            "loss": [0.3, 0.225],
        }
    )
    (axes,) = loss_curves(curve).axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert set(lines) == {"t = 0 to 99", "t = 600 to 999", "mean of the ranges"}
    wanted = {"t = 0 to 99": [0.5, 0.4], "t = 600 to 999": [0.1, 0.05]}
    for label, losses in (wanted | {"mean of the ranges": [0.3, 0.225]}).items():
        assert np.asarray(lines[label].get_xdata()).tolist() == [10, 20]
        assert np.asarray(lines[label].get_ydata()).tolist() == losses
    assert axes.get_yscale() == "log"


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


def test_convergence_is_smoothed_and_averaged_over_seeds() -> None:
    losses = np.arange(30.0)
    rows = [("a", "m", seed, step, losses[step] + seed) for seed in (0, 2) for step in range(30)]
    (axes,) = convergence(
        pd.DataFrame(rows, columns=["data", "method", "seed", "step", "loss"])
    ).axes
    shown = np.asarray(axes.lines[0].get_ydata())
    assert shown[0] == 1
    assert shown[-1] == losses[-SMOOTHED:].mean() + 1


def test_scores_are_means_over_seeds() -> None:
    rows = [("a", "m", 0, 1, 60), ("a", "m", 1, 1, 70), ("a", "m", 0, 5, 80), ("b", "m", 0, 1, 50)]
    scores = pd.DataFrame(rows, columns=["plot", "method", "seed", "x", "dice"])
    first, second = score_curves(scores, "images").axes
    assert (first.get_title(), second.get_title(), first.get_xlabel()) == ("a", "b", "images")
    assert np.asarray(first.lines[0].get_xdata()).tolist() == [1, 5]
    assert np.asarray(first.lines[0].get_ydata()).tolist() == [65, 80]


def test_reliability_pools_seeds_by_pixels() -> None:
    rows = [
        ("a", "m", 0, 30, 0.1, 0.2),  # one seed
        ("a", "m", 0, 10, 0.3, 0.6),  # another
        ("a", "m", 1, 60, 0.9, 0.8),
        ("a", "m", 2, 0, 0.0, 0.0),
    ]
    names = ["data", "method", "bin", "pixels", "probability", "share"]
    (axes,) = reliability(pd.DataFrame(rows, columns=names)).axes
    line = axes.lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [0.15, 0.9])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.3, 0.8])
    # (40 * 0.15 + 60 * 0.1) / 100
    assert line.get_label() == "m (error 12.0 %)"


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
