"""``lcpdn check-data``: everything that is wrong with a data set, before anything is trained."""

import json as jsonlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import NonNegativeInt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoTokenizer

from lcpdn_pl.backbones.catalogue import CATALOGUE
from lcpdn_pl.commands.progress import progress_bars
from lcpdn_pl.commands.sources import Source, open_source
from lcpdn_pl.data import checks
from lcpdn_pl.data.checks import LEVELS, Finding, worst
from lcpdn_pl.data.images import read_image, read_values
from lcpdn_pl.data.problems import listing
from lcpdn_pl.data.progress import Track, untracked
from lcpdn_pl.errors import ConfigError, DataError
from lcpdn_pl.files import save_figure
from lcpdn_pl.plotting import Tile, sample_sheet

EMBEDDED = "minilm-l6"
PAPER = "emilyalsentzer/Bio_ClinicalBERT@d5892b39a4adaed74b92212a44081509db72f87b"
MAX_TOKENS = 64  # LCPDN's, where no configuration sets max_tokens

_ON_SHEET = 12
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def check_data(
    source: Path,
    root: str | None = None,
    foreground: Sequence[int] | None = None,
    json: bool = False,
    sheet: Path | None = None,
    sheet_seed: NonNegativeInt = 0,
) -> None:
    """Checks a data set: files, splits, images, masks, reports, and what splits share.

    Everything is listed at once, each line with a level (ok, note, warning, error) and what to do.
    The exit status is 1 if anything is an error: training or testing would refuse, or its figures
    would be worth nothing.

    Args:
        source: A run's configuration (.yaml, whose section data counts), a folder in LViT's
            layout, or a manifest (.csv or .jsonl).
        root: Data root in place of the configuration's.
        foreground: Mask values that are foreground, such as [127,255]; by default those of the
            configuration, of a manifest 1 and 255, as in training, and of a folder all but 0.
        json: Print one JSON object and nothing else.
        sheet: Picture file (.png) to write, with 12 random samples, their masks and reports.
        sheet_seed: Seed of their choice.

    Raises:
        ConfigError: If the configuration cannot be used.
        SystemExit: With status 1, if there is an error.
    """
    opened = open_source(source, root)
    if sheet is not None:
        _refuse_sheet(sheet, opened)
    if foreground is not None:
        opened = replace(opened, foreground=tuple(foreground))
    with progress_bars(hidden=json) as track:
        findings = find(opened, track)
    if json:
        print(jsonlib.dumps(as_json(str(source), findings), indent=2))
    else:
        print_tables(str(source), findings)
    if sheet is not None:
        _write_sheet(sheet, opened, f"{source}, seed {sheet_seed}", sheet_seed)
    if worst(findings) == "error":
        raise SystemExit(1)


def find(source: Source, track: Track = untracked) -> list[Finding]:
    """Runs all checks that there is something to look at for, in the order of the topics."""
    samples = checks.survey(source.samples, source.foreground, source.ignore, track)
    findings = checks.check_files(samples, source.problems, source.remedy)
    if source.listed.empty:
        return findings
    findings += checks.check_splits(samples)
    if source.protocol is not None:
        name = source.protocol_name
        findings += checks.check_protocol(source.listed, source.protocol, name)
    else:
        findings += checks.check_known_protocols(source.listed)
    findings += checks.check_images(samples, source.image_size)
    findings += checks.check_masks(samples, source.foreground, source.ignore)
    findings += checks.check_reports(samples)
    findings += _check_tokens(source)
    findings += checks.check_sides(samples)
    findings += checks.check_names(source.samples)
    findings += checks.check_copies(samples)
    findings += checks.check_twins(samples, track)
    findings += checks.check_groups(samples)
    return findings


def _check_tokens(source: Source) -> list[Finding]:
    limit = source.max_tokens or MAX_TOKENS
    encoders = dict.fromkeys([source.text_encoder or EMBEDDED, EMBEDDED, PAPER])
    findings = []
    for encoder in encoders:
        name, place, revision = _tokenizer(encoder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                place,
                revision=revision,
                local_files_only=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError):
            text = f"{name}: its tokenizer is not on this machine, so that its tokens are unknown"
            findings.append(Finding("note", "reports.tokens", text))
            continue

        def count(report: str, tokenizer: Any = tokenizer) -> int:
            return len(tokenizer(report, verbose=False)["input_ids"])

        reads = min(limit, tokenizer.model_max_length)
        findings += checks.check_lengths(source.samples, name, count, reads)
    return findings


def _tokenizer(encoder: str) -> tuple[str, str, str | None]:
    """Where `create_text_encoder` would take an encoder's tokenizer from.

    Returns:
        What to call the encoder, its folder or hub id, and the commit there.
    """
    name, _, revision = encoder.partition("@")
    entry = CATALOGUE.get(encoder)
    if entry is not None and entry.present:  # its weights are not read, and need no verifying
        return name, str(entry.path.parent), None
    if Path(encoder).is_dir():  # its name may hold an @
        return encoder, encoder, None
    return name, name, revision or None


def as_json(source: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings for machines.

    Returns:
        ``source``; ``status``, the highest level; ``levels``, findings by level; ``findings``,
        each with ``topic``, ``key``, ``level``, ``message``, ``remedy``, ``items`` (all of them)
        and ``figures``.
    """
    return {
        "source": source,
        "status": worst(findings),
        "levels": _levels(findings),
        "findings": [{"topic": finding.topic, **asdict(finding)} for finding in findings],
    }


def print_tables(source: str, findings: Sequence[Finding]) -> None:
    """Prints a table with a section for each topic, and what is to be done."""
    console = Console()
    table = Table("topic", "level", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("finding", overflow="fold")  # an ellipsis would hide which file it is
    for topic, lines in groupby(findings, lambda finding: finding.topic):
        table.add_section()
        for place, line in enumerate(lines):
            level = Text(line.level, _STYLES[line.level])
            table.add_row("" if place else topic, level, _describe(line))
    console.print(table)
    told = ", ".join(f"{count} {level}" for level, count in _levels(findings).items() if count)
    console.print(Text(f"{source}: {told}", _STYLES[worst(findings)]), soft_wrap=True)


def _levels(findings: Sequence[Finding]) -> dict[str, int]:
    levels = [finding.level for finding in findings]
    return {level: levels.count(level) for level in LEVELS}


def _describe(finding: Finding) -> Text:
    text = Text(finding.message)
    # Of what is well, examples are no help.
    if finding.items and finding.level != "ok":
        separator = "\n  " if max(map(len, finding.items)) > 40 else ", "
        text.append(f"\n  {listing(finding.items, separator)}", "dim")
    if finding.remedy:
        text.append(f"\n-> {finding.remedy}", "italic")
    return text


def _refuse_sheet(file: Path, source: Source) -> None:
    """Refuses what would replace a file that is no sheet."""
    paths = (*source.listed["image"], *source.listed["mask"])
    of_data = {Path(path).resolve() for path in paths}
    if file.suffix.lower() != ".png" or file.resolve() in of_data:
        raise ConfigError(
            f"sheet={file}: expected a new picture file, found one that is of the data or no .png. "
            "Name another one."
        )


def _write_sheet(file: Path, source: Source, title: str, seed: int) -> None:
    samples = source.samples
    chosen = np.random.default_rng(seed).permutation(len(samples))[:_ON_SHEET]
    tiles = list(_tiles(source, sorted(chosen.tolist())))
    if tiles:
        save_figure(sample_sheet(tiles, title), file)


def _tiles(source: Source, rows: list[int]) -> Iterator[Tile]:
    for row in source.samples.iloc[rows].to_dict("records"):
        try:
            image = read_image(Path(row["image"]))
            mask = None
            if row["mask"]:
                values = read_values(Path(row["mask"]))
                shown = source.foreground
                mask = values != 0 if shown is None else np.isin(values, list(shown))
        except DataError:  # listed among the findings
            continue
        if mask is not None and mask.shape != image.shape[:2]:
            mask = None
        yield Tile(image, mask, f"{row['name']} ({row['split']})", row["text"])
