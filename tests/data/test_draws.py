"""An epoch's draws depend on seed and epoch alone, and a loader goes on within an epoch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lcpdn_pl.data.draws import Draws, EpochSampler, TrainingLoader
from lcpdn_pl.data.pool import CropSampler


def test_each_epoch_is_another_permutation() -> None:
    sampler = EpochSampler(20, seed=3)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(index for index, _ in epochs[-1]) == list(range(20))
        assert list(sampler) == epochs[-1]
    assert len({tuple(index for index, _ in epoch) for epoch in epochs}) == 3
    assert len({seed for epoch in epochs for _, seed in epoch}) == 60
    assert len(sampler) == 20
    resumed = EpochSampler(20, seed=3)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(EpochSampler(20, seed=4)) != epochs[0]


@pytest.mark.parametrize(("length", "ranks"), [(20, 2), (7, 3), (2, 5)])
def test_processes_share_the_draws_out_in_turn(length: int, ranks: int) -> None:
    alone = list(EpochSampler(length, seed=3))
    shares = [list(EpochSampler(length, 3, rank, ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {len(EpochSampler(length, 3, 0, ranks))}
    together = [draw for turn in zip(*shares, strict=True) for draw in turn]
    assert together[:length] == alone
    assert len(together) < length + ranks
    assert set(together) == set(alone)


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize(
    "sampler",
    [EpochSampler(9, 3), EpochSampler(9, 3, 1, 2), CropSampler([np.arange(5)], [(8, 2)], 9, 3)],
    ids=["rows", "rows of one process", "crops"],
)
def test_draws_that_are_left_out_change_no_other(sampler: Draws[Any], first: int) -> None:
    sampler.set_epoch(2)
    sampler.first = 0
    whole = list(sampler)
    sampler.first = first
    assert list(sampler) == whole[first:]


class Seeds(Dataset[torch.Tensor]):
    """The seed of a draw, or those of a batch of crops."""

    def __getitem__(self, draw: Any) -> torch.Tensor:
        return torch.tensor(draw[1] if isinstance(draw, tuple) else [crop.seed for crop in draw])


def loader(batch_size: int | None, workers: int) -> TrainingLoader:
    """A loader of five batches: of rows, or of draws that are batches."""
    rows, crops = EpochSampler(9, 3), CropSampler([np.arange(9)], [(8, 2)], 5, 3)
    sampler: Draws[Any] = rows if batch_size else crops
    return TrainingLoader(Seeds(), batch_size=batch_size, sampler=sampler, num_workers=workers)


@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_with_the_next_batch_of_its_epoch(
    batch_size: int | None, workers: int
) -> None:
    first = loader(batch_size, workers)
    first.sampler.set_epoch(1)
    batches = iter(first)
    whole = [next(batches) for _ in range(2)]
    state = first.state_dict()
    assert state == {"epoch": 1, "given": 2}
    whole += list(batches)
    assert len(whole) == 5
    second = loader(batch_size, workers)
    second.load_state_dict(state)
    for epoch, wanted in ((1, whole[2:]), (2, None)):
        second.sampler.set_epoch(epoch)
        found = list(second)
        assert len(found) == (5 if wanted is None else len(wanted))
        for one, other in zip(found, wanted or found, strict=True):
            assert torch.equal(one, other)
    assert second.state_dict() == {"epoch": 2, "given": 5}
