"""Several studies against each other: fronts, hypervolume from one reference point, and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.groups import Method
from qsearch_reports.frames.hypervolume import box_area, hypervolume
from qsearch_reports.frames.points import front_frame, latest_points, points_frame

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval over seeds."""

_BUDGETS = (2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0)

MAX_BUDGETS = 200
"""Budgets that fronts are compared at, at most."""


@lru_cache(maxsize=1000)
def t_quantile(freedom: float) -> float:
    """Return how many standard errors a 95 % interval reaches to either side of a mean."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def mean_interval(values: Sequence[float] | Floats) -> tuple[float, float, float]:
    """Return the mean of a few values, and the ends of its 95 % interval by Student's t."""
    count = len(values)
    if count == 0:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if count == 1:
        return mean, math.nan, math.nan
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def best_within(
    points: pd.DataFrame,
    budgets: Sequence[float] | Floats,
    value: str = "selection_loss",
    *,
    higher: bool = False,
) -> Floats:
    """Return the best value at or under each budget (budgets); NaN where nothing fits."""
    front = front_frame(points, value, higher=higher)
    values = np.append(math.nan, front[value].to_numpy(dtype=float))
    # Position 0 is what fits no budget; position n, the front's n-th point.
    fitting: Floats = values[np.searchsorted(front["average_bits"], budgets, side="right")]
    return fitting


def front_budgets(records: Sequence[StudyRecord], most: int = MAX_BUDGETS) -> Floats:
    """Return the budgets at which any study's front has a step, thinned out if there are many."""
    steps = [
        front_frame(latest_points(points_frame(record)), value, higher=higher)["average_bits"]
        for record in records
        for value, higher in (("selection_loss", False), ("metric", _is_higher_better(record)))
    ]
    budgets = np.unique(np.concatenate(steps)) if steps else np.array([])
    return np.asarray(budgets[spread(len(budgets), most)], dtype=float)


def _is_higher_better(record: StudyRecord) -> bool:
    return record.metric is not None and record.metric.better == "higher"


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most ``most`` places from 0 to ``count`` − 1, evenly spread, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def study_fronts_frame(
    records: Sequence[StudyRecord],
    names: Sequence[str],
    value: str = "loss",
    budgets: Sequence[float] | Floats | None = None,
) -> pd.DataFrame:
    """Return the best of each study's last finished round at or under each budget.

    ``value`` is ``loss``, which is the selection loss, or ``metric``; budgets are those of
    :func:`front_budgets` if None.
    """
    budgets = front_budgets(records) if budgets is None else budgets
    rows: list[tuple[str, float, float]] = []
    for record, name in zip(records, names, strict=True):
        best = best_within(
            latest_points(points_frame(record)),
            budgets,
            "selection_loss" if value == "loss" else value,
            higher=value == "metric" and _is_higher_better(record),
        )
        rows += [(name, *pair) for pair in zip(budgets, best, strict=True)]
    table = pd.DataFrame(rows, columns=["study", "budget", "value"])
    return table.astype({"budget": float, "value": float})


def method_frame(
    studies: pd.DataFrame, names: Sequence[str], methods: Sequence[Method]
) -> pd.DataFrame:
    """Return a table by study as means over the seeds of each method.

    ``studies`` has ``study``, ``value`` and columns that say what the value is of. A mean is known
    only where all seeds have a value: otherwise its steps would show which seeds it is of, and not
    how good they are.
    """
    by = [column for column in studies if column not in ("study", "value")]
    rows = []
    for method in methods:
        own = studies[studies["study"].isin([names[place] for place in method.studies])]
        for key, group in own.groupby(by, sort=False, dropna=False) if by else [((), own)]:
            values = group["value"].dropna().to_numpy(dtype=float)
            is_complete = len(values) == len(method.studies)
            interval = mean_interval(values if is_complete else [])
            rows.append((method.label, *key, *interval, len(values)))
    return pd.DataFrame(rows, columns=["method", *by, "mean", "low", "high", "seeds"])


def common_reference(records: Sequence[StudyRecord]) -> tuple[tuple[float, float], float] | None:
    """Return one reference point (loss, average bits) and least average bits for all studies.

    The reference point is the worst of the studies' own in each objective; None if no study has one
    that bounds an area.
    """
    points = [record.reference_point for record in records if record.reference_point]
    if not points:
        return None
    reference = (max(point[0] for point in points), max(point[1] for point in points))
    least = min(record.average_bits_range[0] for record in records)
    return None if box_area(reference, least) is None else (reference, least)


def comparison_frame(records: Sequence[StudyRecord], names: Sequence[str]) -> pd.DataFrame:
    """Return hypervolume by round of several studies, from one common reference point.

    It is of observed losses. A round that is not finished is left out, except the first, whose
    minutes are not known; a finished one without a completed trial has a hypervolume of 0. Empty if
    no study has a reference point.
    """
    rows = []
    common = common_reference(records)
    if common:
        for record, name in zip(records, names, strict=True):
            rows += [
                (name, number, hypervolume(points, *common), minutes)
                for number, minutes, points in _rounds(record)
            ]
    return pd.DataFrame(rows, columns=["study", "round", "hypervolume", "minutes"])


def time_frame(
    records: Sequence[StudyRecord], names: Sequence[str], budgets: Sequence[float]
) -> pd.DataFrame:
    """Return the best selection loss at or under budgets that each study had after each round."""
    rows = [
        (name, budget, number, minutes, loss)
        for record, name in zip(records, names, strict=True)
        for number, minutes, points in _rounds(record)
        for budget, loss in zip(budgets, best_within(points, budgets), strict=True)
    ]
    return pd.DataFrame(rows, columns=["study", "budget", "round", "minutes", "loss"])


def hypervolume_table(
    by_round: pd.DataFrame, names: Sequence[str], methods: Sequence[Method]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return hypervolumes of the last finished rounds, by study and by method (means), with ranks.

    Rank 1 is the largest; equal ones share the better rank. NaN where a study has none.
    """
    last = by_round.groupby("study", sort=False)["hypervolume"].last().reindex(list(names))
    studies = pd.DataFrame({"study": list(names), "hypervolume": last.to_numpy(dtype=float)})
    by_method = method_frame(studies.rename(columns={"hypervolume": "value"}), names, methods)
    return _ranked(studies, "hypervolume"), _ranked(by_method, "mean")


def common_interval(records: Sequence[StudyRecord]) -> tuple[float, float]:
    """Return the average bits that all studies search; empty (low ≥ high) if they share none."""
    return (
        max(record.segment_edges[0] for record in records),
        min(record.segment_edges[-1] for record in records),
    )


def common_budgets(records: Sequence[StudyRecord], most: int = 5) -> list[float]:
    """Return the budgets that studies are compared at: some that each of them fits, and the end.

    Those that buy no study more than a smaller one does are left out, except the end.

    Returns:
        Average bits, rising; where the studies share no budget, the end of each.
    """
    latest = [(record, latest_points(points_frame(record))) for record in records]
    trying = [(record, own) for record, own in latest if len(own)]
    if not trying:
        return []
    low = max(float(own["average_bits"].min()) for _, own in trying)
    high = common_interval([record for record, _ in trying])[1]
    if low > high:
        return sorted({record.segment_edges[-1] for record, _ in trying})
    inside = [budget for budget in _BUDGETS if low <= budget < high]
    if len(inside) < 3:
        # Rounded up, so that what the least of them is made for still fits.
        inside = [math.ceil(budget * 100) / 100 for budget in np.linspace(low, high, 7)[:-1]]
    offered = np.array([*sorted({budget for budget in inside if budget < high}), high])
    losses = np.array([best_within(own, offered) for _, own in trying])
    gains = np.append(True, (losses[:, 1:] != losses[:, :-1]).any(axis=0))
    gains[-1] = True
    shared = offered[gains]
    return [float(budget) for budget in shared[spread(len(shared), most)]]


def _rounds(record: StudyRecord) -> Iterator[tuple[int, float, pd.DataFrame]]:
    """Yield each finished round, or the first while it runs: number, minutes up to its end, points.

    The minutes of a round that runs are not known; a finished round may have no point.
    """
    points, seconds = points_frame(record), 0.0
    for entry in sorted(record.rounds, key=lambda entry: entry.round):
        seconds += entry.train_seconds + entry.evaluate_seconds + entry.search_seconds
        yield entry.round, seconds / 60, points[points["round"] == entry.round]
    if not record.rounds and len(points):
        yield 1, math.nan, points[points["round"] == 1]


def _ranked(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.assign(rank=table[column].rank(ascending=False, method="min"))
