"""The best configuration under a budget, and the smallest that is as good."""

from __future__ import annotations

import math

import pandas as pd

from qsearch.errors import InputError
from qsearch.plugins.trial_columns import STANDARD_ERROR
from qsearch.storage.study_record import StudyRecord, selection_loss


def completed_rows(record: StudyRecord) -> pd.DataFrame:
    """Return the latest rows of a study; InputError if it has none yet."""
    latest = record.latest
    if latest.empty:
        raise InputError(f"study {record.name!r} has no completed trials yet; run it first")
    return latest


def best_under(record: StudyRecord, bits: float) -> pd.Series:
    """Return the latest row with the least :func:`selection_loss` at or under some average bits."""
    latest = completed_rows(record)
    fitting = latest[latest["average_bits"] <= bits]
    if fitting.empty:
        least = latest["average_bits"].min()
        raise InputError(
            f"no configuration has average bits ≤ {bits:g}; the least in this study is {least:.4f}"
        )
    return best_among(fitting, record.objective)


def best_among(rows: pd.DataFrame, objective: str = "loss") -> pd.Series:
    """Return the row of least :func:`selection_loss`; of equal ones, that of fewest bits."""
    order = ["selection", "average_bits", "loss"]
    by = rows.assign(selection=selection_loss(rows, objective)).sort_values(order)
    return by.drop(columns="selection").iloc[0]


def smallest_alike(record: StudyRecord, row: pd.Series) -> pd.Series:
    """Return the latest row of least average bits whose loss is not surely above another row's.

    Not surely: by no more than the standard deviation of the other row's
    :func:`selection_loss` (its standard error, in a study without estimated losses). The other row
    may be the best under a budget. Of a record that has only rows which keep a user's limits, it
    keeps them, too.
    """
    std = row["estimated_loss_std"]
    error = "standard_error"
    if record.objective != "loss":
        error = f"{record.objective}{STANDARD_ERROR}"
    doubt = row[error] if math.isnan(std) else std
    latest = record.latest
    own = float(selection_loss(row.to_frame().T, record.objective).iloc[0])
    alike = latest[selection_loss(latest, record.objective) <= own + float(doubt)]
    return alike.sort_values(["average_bits", "loss"]).iloc[0]
