"""A study's front as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from qsearch._text import SMALL
from qsearch._text import with_error as small_with_error
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
    shown = study_budgets(record) if budgets is None else budgets
    columns = _columns(record, budget_frame(record, shown))
    for name, _ in columns:
        table.add_column(Text(name), justify="left" if name == "seen" else "right", no_wrap=True)
    for row in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _columns(record: StudyRecord, frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return headings and texts, without columns that the study has nothing for."""
    trials, bits = frame["trial"], frame["average_bits"]
    columns = [
        ("budget", [f"{value:g}" for value in frame["budget"]]),
        ("trial", ["–" if pd.isna(trial) else str(int(trial)) for trial in trials]),
        ("bits", ["–" if pd.isna(value) else f"{value:.4f}" for value in bits]),
    ]
    if frame["bytes"].notna().any():
        megabytes = ["–" if pd.isna(value) else f"{value / 1e6:.1f}" for value in frame["bytes"]]
        columns.append(("MB", megabytes))
    columns += [
        ("loss", _with_errors(frame["loss"], frame["standard_error"])),
    ]
    if frame["estimated_loss"].notna().any():
        columns.append(("estimated", _with_errors(frame["estimated_loss"])))
    if record.metric is not None:
        texts = _with_errors(frame["metric"], frame["metric_standard_error"])
        columns.append((record.metric.name, texts))
    if record.is_trained:
        words = {True: "seen", False: "unseen"}
        columns.append(("seen", [words.get(seen, "–") for seen in frame["seen"]]))
    return columns


def _with_errors(values: pd.Series, errors: pd.Series | None = None) -> list[str]:
    doubts = [math.nan] * len(values) if errors is None else errors
    return [with_error(*pair) for pair in zip(values, doubts, strict=True)]


def with_error(value: float, error: float | None) -> str:
    """Return a value with its standard error, if that is known and not 0."""
    error = math.nan if error is None or error == 0 else error
    if pd.isna(value):
        return "–"
    if abs(value) < SMALL:
        return small_with_error(value, error)
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
