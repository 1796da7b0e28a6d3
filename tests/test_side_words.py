"""What places a report names, and that networks read them without the data package."""

import subprocess
import sys

from lcpdn_pl.side_words import Zone, side_words

BOTH = "Bilateral pulmonary infection, two infected areas,"
ONE = "Unilateral pulmonary infection, one infected area,"


def test_side_words() -> None:
    def zones(report: str) -> set[tuple[str, str | None]]:
        return {(" ".join(sorted(levels)), side) for levels, side in side_words(report)}

    assert Zone(frozenset({"upper"}), "left") in side_words("Dense in the top-left.")
    assert zones("Dense in the lower part.") == {("lower", None)}
    assert zones(f"{ONE} higher middle Right lung.") == {("middle upper", "right")}
    assert zones(f"{BOTH} all left lung and lower right lung.") == {
        ("", "left"),
        ("lower", "right"),
    }
    assert zones(f"{BOTH} left lung and middle right lung.") == {("", "left"), ("middle", "right")}
    assert zones(f"{ONE} left lung and middle right lung.") == {("middle", "right")}
    assert zones(f"{ONE} all left lung and all right lung.") == {("", "left"), ("", "right")}
    assert zones(f"{ONE} upper part of the left lung.") == {("upper", None), ("", "left")}


def test_networks_do_not_load_the_data_package() -> None:
    loaded = "import lcpdn_pl.models.lcpdn.network, sys; sys.exit('lcpdn_pl.data' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0  # noqa: S603 - ours
