from itertools import chain

import pytest

from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.errors import DataError

MONUSEG = [f"monuseg_{draw}" for draw in range(5)]
COUNTS = {
    **dict.fromkeys(MONUSEG, (5, 6, 14)),
    "qata_cov19": (150, 30, 50),
    "mosmed_plus_mixed": (150, 20, 30),
    "mosmed_plus_by_volume": (150, 20, 30),
}


def names(protocol: str, split: str) -> list[str]:
    table = read_protocol(protocol)
    return table.loc[table["split"] == split, "name"].tolist()


@pytest.mark.parametrize("protocol", COUNTS)
def test_counts_order_and_no_overlap(protocol: str) -> None:
    table = read_protocol(protocol)
    assert list(table.columns) == ["name", "split"]
    splits = [names(protocol, split) for split in ("train", "val", "test")]
    assert tuple(map(len, splits)) == COUNTS[protocol]
    assert table["name"].tolist() == list(chain(*splits))
    assert table["name"].is_unique
    assert splits == [sorted(split) for split in splits]


def test_monuseg_draws_differ_in_training_alone() -> None:
    assert len({tuple(names(draw, "train")) for draw in MONUSEG}) == len(MONUSEG)
    assert len({tuple(names(draw, "val") + names(draw, "test")) for draw in MONUSEG}) == 1


def volumes(protocol: str, split: str) -> set[str]:
    return {name.rsplit("_", 1)[0] for name in names(protocol, split)}


def test_by_volume_shares_no_volume_and_mixed_does() -> None:
    train, val, test = (volumes("mosmed_plus_by_volume", s) for s in ("train", "val", "test"))
    assert not train & val | train & test | val & test
    assert volumes("mosmed_plus_mixed", "train") & volumes("mosmed_plus_mixed", "test")


@pytest.mark.parametrize("name", ["monuseg", "../protocols/qata_cov19", "", "full", "__init__"])
def test_unknown_name_lists_those_there_are(name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_protocol(name)
    assert f"found `{name}`" in str(caught.value)
    assert ", ".join(sorted(COUNTS)) in str(caught.value)
    assert "`full` for all images" in str(caught.value)
