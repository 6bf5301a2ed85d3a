"""Whether the database has what the study's directory says was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qsearch.errors import InputError
from qsearch.storage.paths import TRIALS_FILE
from qsearch.storage.study_record import read_trials

_FIGURES = ["average_bits", "loss", "standard_error", "metric", "metric_standard_error"]
_KEY = ["round", "trial"]


def require_agreement(directory: Path, trials: pd.DataFrame, finished: int) -> None:
    """Require that the table of a directory agrees with the rows of its database.

    A database has no checksum of its figures, and may be an older copy; the table has one. What
    an unfinished round lacks is no matter: it is evaluated again.

    Args:
        directory: The study directory.
        trials: Rows of the database, as of ``trials.parquet``.
        finished: How many rounds are finished.

    Raises:
        InputError: Naming the first row that differs.
    """
    path = directory / TRIALS_FILE
    if not path.is_file():
        return
    saved = read_trials(path)
    saved = saved[saved["status"] == "completed"]
    both = saved.merge(
        trials[trials["status"] == "completed"],
        on=_KEY,
        how="left",
        suffixes=("", " found"),
        indicator="where",
    )
    lost = (both["where"] == "left_only") & (both["round"] <= finished)
    # Databases round figures to some ten decimals.
    same = np.isclose(
        both[_FIGURES].to_numpy(float),
        both[[f"{name} found" for name in _FIGURES]].to_numpy(float),
        rtol=1e-9,
        atol=1e-9,
        equal_nan=True,
    ).all(axis=1) & (both["configuration"] == both["configuration found"])
    differing = both[lost | ((both["where"] == "both") & ~same)]
    if differing.empty:
        return
    first = differing.iloc[0]
    found = "nothing"
    if first["where"] == "both":
        found = f"loss {first['loss found']:.9g}, or other figures"
    raise InputError(
        f"{path}: of trial {first['trial']} in round {first['round']} it has loss"
        f" {first['loss']:.9g}, but the database has {found}; the database is damaged or an older"
        " copy: restore it, or remove this file to go on with what the database has"
    )
