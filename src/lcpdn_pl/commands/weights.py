"""``lcpdn weights``: which pretrained weights there are, where they lie, how to get them."""

from pathlib import Path

from rich.console import Console

from lcpdn_pl.backbones.catalogue import CATALOGUE, WEIGHTS_VARIABLE, Weights, weights_folder
from lcpdn_pl.errors import WeightsError

BROKEN = "BROKEN: its checksum is another one"


def list_weights(verify: bool = False) -> None:
    """Lists the weights that the shipped configurations name.

    Args:
        verify: Compare the checksums of those that are there.

    Raises:
        WeightsError: If a checksum differs.
    """
    console = Console(soft_wrap=True, highlight=False)
    broken = []
    for weights in CATALOGUE.values():
        console.print(f"[bold]{weights.name}[/bold]  {weights.part}, {weights.megabytes:.0f} MB")
        console.print(f"    licence  {weights.licence}")
        console.print(f"    sha256   {weights.sha256 or 'not stated by its publisher'}")
        state = _state(weights, verify)
        console.print(f"    file     {weights.path} ({state})")
        if state == BROKEN:
            broken.append(str(weights.path))
    console.print(f"Fetched weights go to {weights_folder()} (${WEIGHTS_VARIABLE}).")
    if broken:
        raise WeightsError(
            f"Checksums differ: {', '.join(broken)}. Remove these files and fetch them again."
        )


def fetch_weights(name: str, to: str | None = None) -> None:
    """Downloads weights that do not come with the installation.

    Args:
        name: Name of the weights, as `lcpdn weights list` shows it, or `all`.
        to: Folder to put them in, for another machine; the default is where they are looked for.

    Raises:
        WeightsError: If the name is unknown or the download fails.
    """
    outside = [weights for weights in CATALOGUE.values() if weights.folder is None]
    wanted = [weights for weights in outside if name in ("all", weights.name)]
    if not wanted:
        known = ", ".join(weights.name for weights in outside)
        raise WeightsError(
            f"There are no weights {name!r} to fetch; expected all or one of {known}."
        )
    folder = Path(to) if to else weights_folder()
    for weights in wanted:
        size = f"{weights.megabytes:.0f} MB"
        Console(soft_wrap=True).print(f"Fetching {weights.name} ({size}) from {weights.source}")
        Console(soft_wrap=True).print(f"    {weights.fetch(folder)}")


def _state(weights: Weights, verify: bool) -> str:
    if not weights.present:
        return f"not there; lcpdn weights fetch {weights.name}"
    intact = weights.intact() if verify else None
    return "there" if intact is None else "there, verified" if intact else BROKEN
