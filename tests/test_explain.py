"""Errors of the machine, and what the user is told of them."""

import errno

import pytest
import torch

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.explain import explain


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("Lower it."), "Lower it."),
        (MemoryError(), "out of memory. Lower data.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory. Lower data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "out of memory. Lower"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.csv"),
            "a.csv could not be written",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "a.png: Permission denied."),
        (RuntimeError("DataLoader worker (pid 7) is killed."), "a loader process was ended from"),
    ],
)
def test_what_the_user_can_mend_is_one_message(error: Exception, message: str) -> None:
    assert str(explain(error)).startswith(message)
    wrapped = ValueError("of the parser")
    wrapped.__cause__ = error
    assert explain(wrapped) == explain(error)


def test_the_fault_of_the_package_is_not_explained_away() -> None:
    assert explain(ValueError("shapes differ")) is None
    assert explain(OSError(errno.EIO, "Input/output error")) is None
