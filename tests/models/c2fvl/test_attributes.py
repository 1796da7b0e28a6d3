"""Attributes of reports: written ones, mirrored ones, and all of the real data sets."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from lcpdn_pl.data.lvit import read_lvit
from lcpdn_pl.data.mask_reports import describe_mask
from lcpdn_pl.data.reports import allowed_transforms, rewrite_sides
from lcpdn_pl.errors import DataError
from lcpdn_pl.models.c2fvl.attributes import LEVELS, Attributes, parse_attributes
from lcpdn_pl.side_words import side_words

BOTH = "Bilateral pulmonary infection, two infected areas,"
ONE = "Unilateral pulmonary infection, one infected area,"
SLIPS = {"uooer": "upper", "eft": "left", "mmiddle": "middle", "rught": "right"}


def mirrored(a: Attributes) -> Attributes:
    return Attributes(*a[:2], *a[5:], *a[2:5])


def assert_follows(reports: Iterable[str]) -> None:
    for report in reports:
        if "hflip" in allowed_transforms(report):
            turned = rewrite_sides(report, "hflip")
            assert parse_attributes(turned) == mirrored(parse_attributes(report)), report


@pytest.mark.parametrize(
    ("report", "attributes"),
    [
        # bilateral, areas, upper, middle, lower left, upper, middle, lower right
        (f"{BOTH} upper left lung and middle right lung.", (1, 2, 1, 0, 0, 0, 1, 0)),
        (f"{BOTH} all left and lower right lung.", (1, 2, 1, 1, 1, 0, 0, 1)),
        (f"{BOTH} left lung and right lung.", (1, 2, 1, 1, 1, 1, 1, 1)),
        (f"{BOTH} lower left lung and right lung.", (1, 2, 0, 0, 1, 1, 1, 1)),
        (f"{BOTH[:-1]},lower left and upper  middle right lung..", (1, 2, 0, 0, 1, 1, 1, 0)),
        (f"{BOTH} lower right lung.", (1, 2, 0, 0, 0, 0, 0, 1)),
        (f"{BOTH} lower right lung and upper left lung", (1, 2, 1, 0, 0, 0, 0, 1)),
        (f"{ONE} LOWER middle Left lung.", (0, 1, 0, 1, 1, 0, 0, 0)),
        (f"{ONE} left lung.", (0, 1, 1, 1, 1, 0, 0, 0)),
        (f"{ONE} left lung and middle right lung.", (0, 1, 0, 0, 0, 0, 1, 0)),
        (f"{ONE} middle left lung and right lung.", (0, 1, 0, 1, 0, 0, 0, 0)),
        (f"{ONE} all left lung and all right lung.", (0, 1, 1, 1, 1, 1, 1, 1)),
        (f"{BOTH} all eft lung and all right lung.(wait", (1, 2, 1, 1, 1, 1, 1, 1)),
        (f"{BOTH} uooer left lung and mmiddle rught lung.", (1, 2, 1, 0, 0, 0, 1, 0)),
        (f"{BOTH} higher middle left and higher lower right lung.", (1, 2, 1, 1, 0, 1, 0, 1)),
        (f"{BOTH} all left lung.".replace("two", "twelve"), (1, 12, 1, 1, 1, 0, 0, 0)),
        (f"{BOTH} all left lung.".replace("two", "13"), (1, 13, 1, 1, 1, 0, 0, 0)),
        ("No pulmonary infection.", (0, 0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_wordings(report: str, attributes: tuple[int, ...]) -> None:
    assert parse_attributes(report) == attributes
    assert_follows([report])
    for transform, order in (("vflip", (4, 3, 2, 7, 6, 5)), ("rot180", (7, 6, 5, 4, 3, 2))):
        if not {*SLIPS, "higher"} & set(report.split()):
            turned = parse_attributes(rewrite_sides(report, transform))  # type: ignore[arg-type]
            assert turned == (*attributes[:2], *(attributes[place] for place in order))


@pytest.mark.parametrize(
    "report",
    [
        "",
        "The nuclei density in the upper left is high.",
        "Pulmonary infection, two infected areas, all left lung and all right lung.",
        f"{BOTH} upper lung.",
        f"{BOTH} upper left lobe.",
        f"{BOTH} upper left lung and upper left lung.",
        f"{BOTH} upper leftt lung.",
        f"{BOTH} all left lung and no right lung.",
        f"{BOTH} upper left lung. Heart enlarged.",
        f"{BOTH} upper left lung.".replace("two", "many"),
        f"{BOTH} upper left lung.".replace("two", "two or three"),
    ],
)
def test_nothing_is_guessed(report: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_attributes(report)
    message = str(caught.value)
    assert message.startswith(f"Report {report!r} is not worded as C2FVL's attributes need it")
    assert "expected a sentence such as 'Bilateral" in message
    assert "Correct the report, or take a method that reads any sentence, such as lvit." in message


def test_reports_made_from_masks() -> None:
    mask = np.zeros((100, 100), np.uint8)
    assert parse_attributes(describe_mask(mask, "lungs")) == (0,) * 8
    mask[10:20, 10:20] = mask[70:80, 80:90] = 1
    assert parse_attributes(describe_mask(mask, "lungs")) == (1, 2, 1, 0, 0, 0, 0, 1)


@pytest.mark.real
@pytest.mark.parametrize(("folder", "count"), [("QaTa-COV19", 112), ("MosMedDataPlus", 37)])
def test_real_reports(folder: str, count: int, real_data: Path) -> None:
    reports = sorted(set(read_lvit(real_data / folder)["text"]))
    assert len(reports) == count
    assert_follows(reports)
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for report in reports:
        found = parse_attributes(report)
        assert found.bilateral == ("Bilateral" in report)
        assert found.areas == 1 + numbers.index(report.split(",")[1].split()[0])
        # The other reader of such sentences, which takes no slip of the pen.
        well_spelt = re.sub(r"\b(?:uooer|eft|mmiddle|rught)\b", lambda slip: SLIPS[slip[0]], report)
        named = {
            (level, zone.side) for zone in side_words(well_spelt) for level in zone.levels or LEVELS
        }
        places = [(level, side) for side in ("left", "right") for level in LEVELS]
        assert found[2:] == tuple(place in named for place in places), report


@pytest.mark.real
def test_reports_of_tissue_are_refused(real_data: Path) -> None:
    for report in set(read_lvit(real_data / "MoNuSeg")["text"]):
        with pytest.raises(DataError, match="is not worded"):
            parse_attributes(report)
