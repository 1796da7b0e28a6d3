"""Outlines of ImageScope: what is read, and which pixels they enclose."""

from pathlib import Path

import numpy as np
import pytest

from lcpdn_pl.data.prepare.annotations import Outline, draw_outlines, read_outlines
from lcpdn_pl.errors import DataError

Points = list[tuple[float, float]]

SQUARE: Points = [(2, 3), (6, 3), (6, 8), (2, 8)]


def region(points: Points, negative: str = "0") -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Id="1" NegativeROA="{negative}"><Vertices>{vertices}</Vertices></Region>'


def document(*regions: str) -> str:
    body = "".join(
        f'<Annotation Id="{i}"><Regions>{r}</Regions></Annotation>' for i, r in enumerate(regions)
    )
    return f'<?xml version="1.0"?><Annotations MicronsPerPixel="0.25">{body}</Annotations>'


def drawn(tmp_path: Path, *regions: str, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    path = tmp_path / "a.xml"
    path.write_text(document(*regions))
    return draw_outlines(read_outlines(path), size)


def test_a_square_has_its_own_area(tmp_path: Path) -> None:
    mask = drawn(tmp_path, region(SQUARE))
    assert mask.shape == (10, 12)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert np.argwhere(mask).min(0).tolist() == [3, 2]
    assert np.argwhere(mask).max(0).tolist() == [7, 5]
    assert (mask > 0).sum() == 4 * 5


def test_layers_join_and_holes_are_cut(tmp_path: Path) -> None:
    hole = region([(3, 4), (5, 4), (5, 6), (3, 6)], negative="1")
    other = region([(8, 0), (10, 0), (10, 2), (8, 2)])
    assert (drawn(tmp_path, hole, region(SQUARE), other) > 0).sum() == 20 - 4 + 4


def test_area_of_a_round_outline() -> None:
    turns = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = 50 + 30 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    mask = draw_outlines([Outline(circle, False)], (100, 100))
    assert (mask > 0).sum() == pytest.approx(np.pi * 900, rel=0.002)
    # Turned a quarter it is the same one.
    assert np.array_equal(mask, mask.T)


def test_outlines_beyond_the_image_and_without_area(tmp_path: Path) -> None:
    beyond = region([(-3, -3), (2, -3), (2, 2), (-3, 2)])
    outside = region([(50, 50), (60, 50), (60, 60)])
    line = region([(5, 5), (9, 9)])
    assert (drawn(tmp_path, beyond, outside, line, region([])) > 0).sum() == 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no element found"),
        ("<Annotations>", "no element found"),
        ("<Annotations/>", "no Region element"),
        (document(region([("a", 1)])), "could not convert"),  # type: ignore[list-item]
        (document(region([(float("nan"), 1)])), r"the point \(nan"),
        (document(region([(1e9, 1)])), "the point"),
        ('<Annotations><Region><Vertex X="1"/></Region></Annotations>', "'Y'"),
    ],
)
def test_no_outlines(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml: expected the outlines .* found .*{found}"):
        read_outlines(path)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 9))
    path.write_text(f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>&l8;</a>')
    with pytest.raises(DataError, match="found a document type `a`"):
        read_outlines(path)
