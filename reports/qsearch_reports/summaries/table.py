"""A study's front as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames import budget_frame, study_budgets

_MAX = 1e7
"""Numbers from here on are written with an exponent: their digits say nothing and fill a line."""


def summary_table(record: StudyRecord, budgets: Sequence[float] | None = None) -> Table:
    """Return the best configuration at or under each budget, as a rich table.

    It was chosen by its estimated loss, where that is known.
    """
    title = Text(f"{record.name}: best configuration at or under each budget")
    # Seven columns fit a terminal of 80 characters only with one space between them.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    names = ("budget", "trial", "average bits", "loss", "estimated", record.metric.name, "seen")
    for name in names:
        table.add_column(Text(name), justify="left" if name == "seen" else "right", no_wrap=True)
    shown = study_budgets(record) if budgets is None else budgets
    for row in budget_frame(record, shown).to_dict("records"):
        table.add_row(f"{row['budget']:g}", *(Text(cell) for cell in _cells(row)))
    return table


def _cells(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    if pd.isna(row["trial"]):
        return ("–",) * 6
    return (
        str(int(row["trial"])),
        f"{row['average_bits']:.4f}",
        with_error(row["loss"], row["standard_error"]),
        with_error(row["estimated_loss"], math.nan),
        with_error(row["metric"], row["metric_standard_error"]),
        "seen" if row["seen"] else "unseen",
    )


def with_error(value: float, error: float | None) -> str:
    """Return a value with its standard error, if that is known."""
    error = math.nan if error is None else error
    if pd.isna(value):
        return "–"
    # Perplexities of poor configurations run to thousands; their fourth decimal says nothing.
    places = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    shown, doubt = (
        f"{number:.{places}f}" if abs(number) < _MAX else f"{number:.4g}"
        for number in (value, error)
    )
    return shown if pd.isna(error) else f"{shown} ± {doubt}"


def least_budget(average_bits: float) -> str:
    """Return the least budget of two decimals that some average bits fit, as text."""
    hundredths = math.floor(average_bits * 100)
    hundredths += hundredths / 100 < average_bits
    return f"{hundredths / 100:.2f}"
