"""``lcpdn prepare``: a public data set as downloaded, brought into the layout."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lcpdn_pl.commands.progress import progress_bars
from lcpdn_pl.data.lvit import FOLDERS
from lcpdn_pl.data.prepare import MODULES, MissingReports, PublicSet
from lcpdn_pl.data.prepare import prepare as prepare_data
from lcpdn_pl.data.public import data_root


def prepare(
    dataset: PublicSet,
    source: Path,
    out: Path | None = None,
    reports: Path | None = None,
    missing_reports: MissingReports = "refuse",
) -> None:
    """Brings a public data set, as it was downloaded, into the layout that lcpdn reads.

    Read are LViT's trees; MoNuSeg's images with their XML outlines; the folders Images and
    Ground-truths of QaTa-COV19; frames and masks. Everything is checked first, images and masks are
    copied byte for byte, nothing that exists is overwritten, and a run that was broken off is
    continued. Archives are refused if they hold links, absolute names, `..` or unlikely sizes.

    Args:
        dataset: Which data set it is.
        source: Folder or archive (.zip, .tar, .tar.gz, .tgz) as downloaded, or a folder of them.
        out: Folder for the result; by default where the data module looks.
        reports: Report table (.xlsx, .csv, .json), or a folder or archive of them, in place of
            those in the source. Names with train, val or test tell the split of their images.
        missing_reports: Images without a report: `refuse` lists them as an error, `keep` keeps them
            (`lcpdn report-from-mask` can then write reports), `leave_out` does so.
    """
    out = out or data_root(None, MODULES[dataset].folder)
    with progress_bars() as track:
        done = prepare_data(dataset, source, out, reports, missing_reports, track)
    table = Table(title=f"{dataset} in {out}", title_justify="left")
    table.add_column("split")
    for title in ("images", "masks", "reports"):
        table.add_column(title, justify="right")
    for split in FOLDERS:
        rows = done.samples[done.samples["split"] == split]
        count, stated = len(rows), (rows["text"] != "").sum()
        table.add_row(split, str(count), str(count), str(stated))
    console = Console(soft_wrap=True)
    console.print(table)
    for note in done.notes:
        console.print(f"- {note}", markup=False)
    console.print(f"{done.written.new} files written, {done.written.there} were there already.")
