"""The scores as a table for a terminal: a row a language, under each score its interval."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from megas2s.answers.report import Report

WIDE = 200  # columns where nobody looks, so that no log breaks a line


def show(report: Report) -> None:
    """Print the table, and what somebody who reads it should know."""
    Console(width=None if sys.stdout.isatty() else WIDE).print(table(report))
    for note in report.notes:
        print(f"note: {note}")


def table(report: Report) -> Table:
    """The table of a report."""
    found = Table("", box=None, pad_edge=False)
    found.add_column("segments", justify="right")
    for metric in report.metrics:
        found.add_column(metric.name, justify="right")
    for group, places in report.groups.items():
        cells = []
        for metric in report.metrics:
            value, low, high, _ = report.scores[group][metric.name]
            cells.append(f"{metric.shown(value)}\n[dim]{metric.shown(low)}–{metric.shown(high)}[/dim]")
        found.add_row(group, f"{len(places):,}", *cells)
    return found
