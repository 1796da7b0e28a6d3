"""What is checked of a data set before training.

:func:`survey` reads every file once and adds what it measured to the samples table; each check
takes that table and returns :class:`Finding` objects, and changes nothing.
"""

from lcpdn_pl.data.checks.findings import LEVELS, Finding, Level, worst
from lcpdn_pl.data.checks.leaks import check_copies, check_groups, check_twins, group_of
from lcpdn_pl.data.checks.masks import check_masks
from lcpdn_pl.data.checks.reports import check_lengths, check_reports, check_sides
from lcpdn_pl.data.checks.survey import survey
from lcpdn_pl.data.checks.tables import (
    check_files,
    check_images,
    check_known_protocols,
    check_names,
    check_protocol,
    check_splits,
)

__all__ = [
    "LEVELS",
    "Finding",
    "Level",
    "check_copies",
    "check_files",
    "check_groups",
    "check_images",
    "check_known_protocols",
    "check_lengths",
    "check_masks",
    "check_names",
    "check_protocol",
    "check_reports",
    "check_sides",
    "check_splits",
    "check_twins",
    "group_of",
    "survey",
    "worst",
]
