"""Whether the database has what the study's directory says was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qsearch.errors import InputError
from qsearch.monitoring.events import EventKind, read_events
from qsearch.plugins.trial_columns import metric_columns
from qsearch.storage.paths import LOG, TRIALS_FILE
from qsearch.storage.round_state import RoundState
from qsearch.storage.study_record import read_trials

_KEY = ["round", "trial"]
_LOGGED = ["average_bits", "loss"]
_SAVED = [*_LOGGED, "standard_error"]
_TOLERANCE = 1e-9
"""Absolute and relative: databases round values to some ten decimals."""


def require_agreement(
    directory: Path,
    label: str,
    table: pd.DataFrame,
    metrics: Sequence[str],
    count: int,
    rounds: Sequence[RoundState],
) -> None:
    """Require that the rows of a database agree with the table and the log of its directory.

    A database, named by its label, has no checksum of its values, and may be an older copy; the
    table has one, and the log has the losses of the current round. Missing rows of an unfinished
    round are evaluated again, so they may be missing.
    """
    if rounds and count < rounds[-1].trials:
        raise InputError(
            f"{label}: has {count} trials of the study, but {directory} has finished rounds of"
            f" {rounds[-1].trials}; restore the database it was run with"
        )
    rows = table[table["status"] == "completed"]
    if (path := directory / TRIALS_FILE).is_file():
        saved = read_trials(path, metrics)
        saved = saved[saved["status"] == "completed"]
        _require_same(path, saved, rows, [*_SAVED, *metric_columns(metrics)], len(rounds))
    logged = _logged(directory / LOG, metrics)
    _require_same(directory / LOG, logged, rows, [*_LOGGED, *metrics], 0)


def _logged(path: Path, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the last evaluation of each trial and round in a log; half a line is none."""
    lines = [line for line in read_events(path) if line.get("event") == EventKind.EVALUATED]
    rows = [{**line, **_mapping(line.get("metrics"))} for line in lines]
    table = pd.DataFrame(rows, columns=[*_KEY, *_LOGGED, *metrics])
    table = table.apply(pd.to_numeric, errors="coerce").dropna(subset=[*_KEY, *_LOGGED])
    table = table.astype(dict.fromkeys(_KEY, np.int64)).drop_duplicates(_KEY, keep="last")
    return pd.DataFrame(table)


def _require_same(
    path: Path, saved: pd.DataFrame, rows: pd.DataFrame, values: list[str], finished: int
) -> None:
    """Require that a database's rows have the values of saved ones, and all of finished rounds."""
    both = saved.merge(rows, on=_KEY, how="left", suffixes=("", " stored"), indicator="side")
    is_missing = both["side"] == "left_only"
    same = np.isclose(
        both[values].to_numpy(float),
        both[[f"{name} stored" for name in values]].to_numpy(float),
        rtol=_TOLERANCE,
        atol=_TOLERANCE,
        equal_nan=True,
    ).all(axis=1)
    if "configuration" in saved:
        same &= (both["configuration"] == both["configuration stored"]).to_numpy()
    differing = both[np.where(is_missing, both["round"] <= finished, ~same)]
    if differing.empty:
        return
    first = differing.iloc[0]
    stored = "nothing"
    if first["side"] == "both":
        stored = f"loss {first['loss stored']:.9g}, or other values"
    raise InputError(
        f"{path}: of trial {first['trial']} in round {first['round']} it has loss"
        f" {first['loss']:.9g}, but the database has {stored}; one of the two is damaged or an"
        " older copy: restore it, or remove this file to continue with what the database has"
    )


def _mapping(value: object) -> Mapping[str, object]:
    """Return a mapping of a log's line; whatever else a damaged line has is none."""
    return value if isinstance(value, Mapping) else {}
