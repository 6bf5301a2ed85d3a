"""Budgets and limits of metrics that are given as arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from qsearch._sizes import parse_size
from qsearch.deployment.budgets import Budget
from qsearch.deployment.metric_limits import MetricLimit, best_with_limits
from qsearch.errors import InputError
from qsearch.storage.study_record import StudyRecord

_WITHOUT_DASHES = ""


def picked_row(
    record: StudyRecord,
    directory: Path,
    bits: object,
    nbytes: object,
    maxima: object,
    minima: object,
) -> pd.Series:
    """Return the best row within a budget that keeps limits; without any, the best of all."""
    limits = [*_limits(maxima, "max"), *_limits(minima, "min")]
    budget = _budget(bits, nbytes)
    if budget is None and not limits:
        budget = Budget("bits", math.inf)
    return best_with_limits(record, directory, budget, limits)


def _budget(bits: object, nbytes: object) -> Budget | None:
    if bits is not None and nbytes is not None:
        raise InputError("give one budget, bits or bytes, not both")
    if bits is not None:
        limit = _number(bits)
        if math.isnan(limit):
            raise InputError(f"bits: give a number of average bits, not {bits!r}")
        return Budget("bits", limit, prefix=_WITHOUT_DASHES)
    if nbytes is not None:
        limit, unit = parse_size(str(nbytes), "bytes")
        return Budget("bytes", limit, unit=unit, prefix=_WITHOUT_DASHES)
    return None


def _limits(values: object, side: Literal["max", "min"]) -> list[MetricLimit]:
    given = {} if values is None else values
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and math.isfinite(_number(value)) for name, value in given.items()
    ):
        raise InputError(f'{side}: give metrics and numbers, such as {{"kl": 0.05}}, not {given!r}')
    return [
        MetricLimit(name, side, _number(value), _WITHOUT_DASHES) for name, value in given.items()
    ]


def _number(value: object) -> float:
    """Return a number of Python or NumPy; NaN if it is none."""
    try:
        return math.nan if isinstance(value, str | bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
