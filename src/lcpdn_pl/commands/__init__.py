"""Plain commands of ``lcpdn``, one module each: a typed function whose docstring is its help."""

from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser

from lcpdn_pl.commands.benchmark import benchmark
from lcpdn_pl.commands.check_data import check_data
from lcpdn_pl.commands.prepare import prepare
from lcpdn_pl.commands.report_from_mask import report_from_mask
from lcpdn_pl.commands.weights import fetch_weights, list_weights

COMMANDS: dict[str, Any] = {
    "benchmark": benchmark,
    "check-data": check_data,
    "prepare": prepare,
    "report-from-mask": report_from_mask,
    "weights": {"list": list_weights, "fetch": fetch_weights},
}
"""Functions by the name of their command; a command with several has them by subcommand."""


class CommandParser(ArgumentParser):
    """Takes a parameter of type bool as a flag, and a dash for an underscore: ``--dry-run``."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a parameter, see :class:`argparse.ArgumentParser`."""
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo()
        if args and args[0].startswith("--") and "_" in args[0]:
            args = (*args, args[0].replace("_", "-"))
        return super().add_argument(*args, **kwargs)
