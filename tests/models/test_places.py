"""Named places, drawn and fused."""

import pytest
import torch
from torch.nn import functional as F

from lcpdn_pl.models.lcpdn.fusion import LTFR
from lcpdn_pl.models.places import named_places, place_maps


@pytest.mark.parametrize(
    ("report", "grid"),
    [
        ("one infected area, lower left lung.", [[0, 0], [0, 0], [1, 0]]),
        ("two areas, upper middle left lung and all right lung.", [[1, 1], [1, 1], [0, 1]]),
        ("nuclei in the upper part.", [[1, 1], [0, 0], [0, 0]]),
        ("dense nuclei.", [[0.5, 0.5]] * 3),
        ("", [[0.5, 0.5]] * 3),
    ],
)
def test_six_places_of_a_report(report: str, grid: list[list[float]]) -> None:
    assert named_places([report, ""]).tolist() == [grid, [[0.5, 0.5]] * 3]


def test_places_blend_and_sides_do_not() -> None:
    blended, sides = place_maps(named_places(["lower left lung"]), 6, 4)[0]
    assert sides.tolist() == [[0.5, 0.5, -0.5, -0.5]] * 6
    # Columns lie at 1/4, 3/4 between the two; rows at 1/4 beyond, 1/4 within, ... of each third.
    columns = torch.tensor([1, 0.75, 0.25, 0])
    rows = torch.tensor([0, 0, 0, 0.25, 0.75, 1])
    torch.testing.assert_close(blended + 0.5, rows[:, None] * columns)


def test_ltfr_adds_the_maps_to_its_first_layer() -> None:
    torch.manual_seed(0)
    ltfr = LTFR(8, places=True)
    image, report = torch.randn(1, 8, 3, 2), torch.randn(1, 1, 8)
    places = named_places(["lower left lung"])
    assert ltfr.named is not None
    pixels = image.flatten(2).transpose(1, 2)
    joined = torch.cat([pixels, report.expand(-1, 6, -1)], dim=-1)
    maps = place_maps(places, 3, 2).flatten(2).transpose(1, 2)
    fused = ltfr.fuse(F.gelu(ltfr.concat(joined) + maps @ ltfr.named.weight.T))
    rate = torch.sigmoid(ltfr.gate(fused))
    wanted = (rate * fused + (1 - rate) * pixels) * pixels
    found = ltfr(image, report, torch.tensor([[True]]), places)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("places", [False, True])
def test_places_are_neither_dropped_nor_made_up(places: bool) -> None:
    ltfr, image, report = LTFR(8, places=places), torch.zeros(1, 8, 2, 2), torch.zeros(1, 1, 8)
    given = None if places else named_places([""])
    with pytest.raises(ValueError, match=f"built with places={places} but called"):
        ltfr(image, report, torch.tensor([[True]]), given)
