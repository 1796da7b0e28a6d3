"""``lcpdn report-from-mask``: rule-based reports for data that has none."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lcpdn_pl.data.mask_reports import Wording
from lcpdn_pl.data.mask_tables import write_reports


def report_from_mask(
    source: Path,
    wording: Wording = "generic",
    foreground: Sequence[int] = (1, 255),
    force: bool = False,
) -> None:
    """Writes rule-based reports from masks, for data that has none.

    Each of them says `mask` in the column `source`, and lcpdn warns where such a report belongs to
    a validation or test image: it tells the network what to find. Reports that are there are kept.

    Args:
        source: Folder in LViT's layout, whose tables are added to; or a manifest (.csv, .jsonl),
            beside which `<name>_reports.csv` is written.
        wording: `lungs` (sides, levels, number of areas), `nuclei` (where they are dense) or
            `generic` (number, share, quarters), in the words of the public sets.
        foreground: Values of a mask file that are foreground; 0 is background.
        force: Write all reports anew; a table with other ones is kept as `<name>.bak`.
    """
    done = write_reports(source, wording, foreground, force)
    table = Table()
    for title in ("file", "split"):
        table.add_column(title, overflow="fold")
    for title in ("from mask", "kept"):
        table.add_column(title, justify="right")
    for row in done.itertuples(index=False):
        table.add_row(*map(str, row))
    console = Console()
    console.print(table)
    if done.loc[done["split"].isin(["val", "test"]), "written"].any():
        console.print(
            "Validation or test images have reports made from their masks: figures measured with "
            "them are no figures of segmentation.",
            style="yellow",
        )
