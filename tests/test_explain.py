"""Errors of the machine, and what the user is told of them."""

import errno
from collections.abc import Callable

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lcpdn_pl.errors import ConfigError, DataError
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
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.png/b"), "a.png/b: Not a dir"),
        (ValueError("Expected more than 1 value per channel"), "the network's coarsest level"),
        (RuntimeError("DataLoader worker (pid 7) is killed."), "a loader process was ended from"),
    ],
)
def test_what_the_user_can_mend_is_one_message(error: Exception, message: str) -> None:
    assert str(explain(error)).startswith(message)
    wrapped = ValueError("of the parser")
    wrapped.__cause__ = error
    assert explain(wrapped) == explain(error)


class Broken(Dataset[int]):
    """Whose images are."""

    def __len__(self) -> int:
        """One image."""
        return 1

    def __getitem__(self, index: int) -> int:
        """Fails as a reader does that wraps a library's error."""
        try:
            return 1 // index
        except ZeroDivisionError as error:
            raise DataError("a.png is torn.\nReplace it.") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_process_is_told_as_in_the_main_one(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert explain(caught.value) == "a.png is torn.\nReplace it."


def raised(by: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        by()
    error: Exception = caught.value
    # As the command line has it, whose own frames are the package's.
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def test_what_a_library_says_of_a_setting_is_told() -> None:
    error = raised(lambda: torch.optim.SGD([torch.zeros(1)], lr=-1.0))
    assert error.__traceback__ is not None
    told = explain(error.with_traceback(error.__traceback__.tb_next))
    assert told == (
        "torch.optim.sgd refuses a setting of the run (ValueError: Invalid learning rate: -1.0). "
        "Correct it in the configuration or among the arguments."
    )


def test_what_passed_other_code_keeps_its_traceback() -> None:
    assert explain(raised(lambda: torch.optim.SGD([torch.zeros(1)], lr=-1.0))) is None


def test_the_fault_of_the_package_is_not_explained_away() -> None:
    assert explain(ValueError("shapes differ")) is None
    assert explain(OSError(errno.EIO, "Input/output error")) is None
