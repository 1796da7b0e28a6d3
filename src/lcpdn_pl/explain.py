"""What the user is told when the machine fails, or a library refuses a setting."""

import errno
import sys
from collections.abc import Sequence
from traceback import walk_tb
from types import FrameType

import torch
from lightning.pytorch.trainer.connectors import checkpoint_connector

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
_NOWHERE = {
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.EROFS,
    errno.ENAMETOOLONG,
}
_NO_PLACE = "{file}: {reason}. Name another place."

_WORKER = "DataLoader worker"  # a RuntimeError of torch's
_FEWER_WORKERS = (
    "a loader process was ended from outside, often because memory ran out ({reason}). Lower "
    "data.num_workers, 0 loads in the main process; a run goes on with lcpdn fit --ckpt_path "
    "RUN_FOLDER."
)

_ONE_VALUE = "Expected more than 1 "  # a ValueError of torch's normalisations
_MORE_VALUES = (
    "the network's coarsest level has a single pixel, which cannot be normalised ({reason}). Raise "
    "data.image_size or data.batch_size."
)

_BUILDS = "jsonargparse"  # constructs what a configuration names
_JUDGES = ("lightning.", "torch.optim.", "jsonargparse.")  # their errors are of settings
_RESTORES = checkpoint_connector.__name__
_OWN = {"lcpdn_pl", "lightning", "torch", "jsonargparse", *sys.stdlib_module_names}
_REFUSED = (
    "{module} refuses a setting of the run ({kind}: {reason}). Correct it in the configuration or "
    "among the arguments."
)


def explain(error: BaseException | None) -> str | None:
    """One message for an error that the user can mend.

    Args:
        error: It or its cause may be one of the package's own, whose message is taken, also where a
            constructor's error was wrapped by the parser.

    Returns:
        ``None`` if it is none of these: then it is the package's fault, and its traceback is due.
    """
    chain: list[BaseException] = []
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
        if isinstance(error, OSError) and error.filename and error.errno in _NOWHERE:
            return _NO_PLACE.format(file=error.filename, reason=error.strerror)
        if isinstance(error, RuntimeError) and reason.startswith(_WORKER):
            return _FEWER_WORKERS.format(reason=reason.rstrip("."))
        if isinstance(error, ValueError) and reason.startswith(_ONE_VALUE):
            return _MORE_VALUES.format(reason=reason)
        chain.append(error)
        error = error.__cause__ or error.__context__
    return _refused(chain)


def _refused(chain: Sequence[BaseException]) -> str | None:
    """What a library says of a setting, unless it may be the fault of other code, or of a file.

    The user's own modules keep their tracebacks, and so do those of this package. What a damaged
    checkpoint leads to is :class:`lcpdn_pl.checkpoints.RunCheckpoint`'s to tell.

    Args:
        chain: An error, its cause, and so on; the last one is where it began.
    """
    traces = [[_module(frame) for frame, _ in walk_tb(error.__traceback__)] for error in chain]
    modules = {module for trace in traces for module in trace}
    packages = {module.partition(".")[0] for module in modules}
    if not traces or not all(traces) or not packages <= _OWN or _RESTORES in modules:
        return None
    ends = [trace[-1] for trace in traces]
    if any(end.startswith("lcpdn_pl.") for end in ends):
        return None
    if _BUILDS not in packages and not ends[-1].startswith(_JUDGES):
        return None
    kind, reason = type(chain[-1]).__name__, str(chain[-1]).rstrip(".")
    return _REFUSED.format(module=ends[-1], kind=kind, reason=reason)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
