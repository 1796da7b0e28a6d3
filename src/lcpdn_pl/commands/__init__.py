"""Plain commands of ``lcpdn``, one module each: a typed function whose docstring is its help."""

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from jsonargparse import ActionYesNo, ArgumentParser

from lcpdn_pl.commands.benchmark import benchmark
from lcpdn_pl.commands.check_data import check_data
from lcpdn_pl.commands.prepare import prepare
from lcpdn_pl.commands.report import report
from lcpdn_pl.commands.report_from_mask import report_from_mask
from lcpdn_pl.commands.segment import segment
from lcpdn_pl.commands.weights import fetch_weights, list_weights

COMMANDS: dict[str, Any] = {
    "benchmark": benchmark,
    "check-data": check_data,
    "prepare": prepare,
    "report": report,
    "report-from-mask": report_from_mask,
    "segment": segment,
    "weights": {"list": list_weights, "fetch": fetch_weights},
}
"""Functions by the name of their command; a command with several has them by subcommand."""


class CommandParser(ArgumentParser):
    """Takes options as a shell's users write them.

    A parameter of type bool is a flag, a dash will do for an underscore (``--dry-run``), and a
    sequence that comes first is any number of words.
    """

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a parameter, see :class:`argparse.ArgumentParser`."""
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo()
        if args and args[0].startswith("--") and "_" in args[0]:
            args = (*args, args[0].replace("_", "-"))
        # jsonargparse hands types other than the plain ones on inside of the action.
        kind = getattr(kwargs.get("action"), "_typehint", None)
        if args and args[0][0] != "-" and get_origin(kind) is Sequence:
            del kwargs["action"]
            kwargs |= {"type": get_args(kind)[0], "nargs": "+"}
        return super().add_argument(*args, **kwargs)
