"""What the user is told when the machine fails: memory, disk space, permissions, processes."""

import errno

import torch

from lcpdn_pl.errors import LCPDNError

_NO_MEMORY = "can't allocate memory"  # a RuntimeError of torch's on a CPU
_LESS_MEMORY = (
    "out of memory. Lower data.batch_size or data.image_size, or let LCPDN take one noise level at "
    "a time: --model.network.step_batch 1 --model.network.gradient_checkpointing true. lcpdn "
    "segment takes a smaller --tile. Nothing that was written before is lost."
)

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MORE_SPACE = (
    "{file} could not be written: {reason}. What was there before is whole, and nothing is half "
    "written. Make room on that disk; a run goes on with lcpdn fit --ckpt_path RUN_FOLDER."
)

_NO_PERMISSION = "{file}: {reason}. Correct its permissions, or name another file."

_WORKER = "DataLoader worker"  # a RuntimeError of torch's
_FEWER_WORKERS = (
    "a loader process was ended from outside, often because memory ran out ({reason}). Lower "
    "data.num_workers, 0 loads in the main process; a run goes on with lcpdn fit --ckpt_path "
    "RUN_FOLDER."
)


def explain(error: BaseException | None) -> str | None:
    """One message for an error that the user can mend.

    Args:
        error: It or its cause may be one of the package's own, whose message is taken, also where a
            constructor's error was wrapped by the parser.

    Returns:
        ``None`` if it is none of these: then it is the package's fault, and its traceback is due.
    """
    while error is not None:
        reason = str(error)
        if isinstance(error, LCPDNError):
            # Out of a loader process it comes with that process's traceback before its message.
            kind = f"{type(error).__module__}.{type(error).__qualname__}: "
            return reason.rpartition(kind)[2].rstrip("\n")
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY in reason:
            return _LESS_MEMORY
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return _MORE_SPACE.format(file=error.filename or "a file", reason=error.strerror)
        if isinstance(error, PermissionError):
            return _NO_PERMISSION.format(file=error.filename or "a file", reason=error.strerror)
        if isinstance(error, RuntimeError) and reason.startswith(_WORKER):
            return _FEWER_WORKERS.format(reason=reason.rstrip("."))
        error = error.__cause__ or error.__context__
    return None
