"""Which of two methods is better in each segment, as far as their seeds can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pandas as pd

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.comparison import common_interval, mean_interval, t_quantile
from qsearch_reports.frames.groups import Method
from qsearch_reports.frames.points import latest_front

Floats = npt.NDArray[np.float64]

OUTCOMES = ("win", "tie", "loss", "none")
"""How a method fares against another; ``none`` where one of them has nothing within a budget."""

_COLUMNS = ("method", "other", "segment", "lower", "upper", "difference", "low", "high", "outcome")


def common_edges(records: Sequence[StudyRecord]) -> tuple[tuple[float, ...], bool]:
    """Return the edges of segments to compare studies by, and whether they are the studies' own.

    Where the studies have others than each other, as many equal segments as the first one has
    divide the average bits that all of them search.

    Returns:
        Edges in average bits, rising; none if the studies share no average bits.
    """
    first = records[0].segment_edges
    if all(np.array_equal(record.segment_edges, first) for record in records):
        return tuple(first), True
    low, high = common_interval(records)
    if low >= high:
        return (), False
    return tuple(float(edge) for edge in np.linspace(low, high, len(first))), False


def outcomes_frame(
    records: Sequence[StudyRecord], methods: Sequence[Method], edges: Sequence[float]
) -> pd.DataFrame:
    """Return how each method fares against each other one, segment by segment.

    Compared is the best selection loss of the last finished round within a budget of the segment's
    upper edge. A tie is a difference that may be chance:

    * with several seeds of both, if the 95 % interval of the difference holds 0: of paired
      differences if both have the same seeds, else by Welch's t test;
    * with several seeds of one only, if the single loss lies in the other's 95 % interval of
      prediction: the single one's own spread is taken to be alike;
    * with a single seed of both, if it is at most the root of the summed squares of the two
      losses' deviations (estimated loss) or standard errors (observed loss), and where one of
      these is not known.

    ``low`` and ``high`` are the ends of the interval named above; NaN if they are not known.
    """
    budgets = np.asarray(edges[1:], dtype=float)
    best = {method.label: _best(records, method, budgets) for method in methods}
    rows = []
    for method, other in permutations(methods, 2):
        for place, upper in enumerate(budgets):
            pair = best[method.label][:, :, place], best[other.label][:, :, place]
            interval = _difference(method, other, *pair)
            ends = (place, float(edges[place]), float(upper))
            rows.append((method.label, other.label, *ends, *interval, _outcome(*interval)))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def outcome_counts(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return how many segments of :func:`outcomes_frame` end in which way, by ordered pair."""
    if outcomes.empty:
        return pd.DataFrame(columns=["method", "other", *OUTCOMES])
    counts = outcomes.groupby(["method", "other"], sort=False)["outcome"].value_counts()
    table = counts.unstack(fill_value=0).reindex(columns=list(OUTCOMES), fill_value=0)
    pairs = list(dict.fromkeys(zip(outcomes["method"], outcomes["other"], strict=True)))
    made = table.reindex(pd.MultiIndex.from_tuples(pairs, names=["method", "other"]))
    return made.rename_axis(columns=None).reset_index()


def _best(records: Sequence[StudyRecord], method: Method, budgets: Floats) -> Floats:
    """Return the least loss within each budget, and its uncertainty (2 × seeds × budgets)."""
    found = []
    for place in method.studies:
        front = latest_front(records[place])
        doubt = front["estimated_loss_std"].fillna(front["standard_error"])
        at = np.searchsorted(front["average_bits"], budgets, side="right")
        pair = np.array([front["selection_loss"], doubt], dtype=float)
        found.append(np.insert(pair, 0, math.nan, axis=1)[:, at])
    return np.stack(found, axis=1)


def _difference(
    method: Method, other: Method, first: Floats, second: Floats
) -> tuple[float, float, float]:
    """Return the difference of two methods at one budget, and the ends of its interval."""
    (ours, our_doubt), (theirs, their_doubt) = first, second
    if np.isnan(ours).any() or np.isnan(theirs).any():
        return math.nan, math.nan, math.nan
    if len(ours) == len(theirs) == 1:
        difference = float(ours[0] - theirs[0])
        half = float(np.hypot(our_doubt[0], their_doubt[0]))
        return difference, difference - half, difference + half
    if set(method.seeds) == set(other.seeds):
        order = [other.seeds.index(seed) for seed in method.seeds]
        return mean_interval(ours - theirs[order])
    return unpaired_interval(ours, theirs)


def unpaired_interval(ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Return the difference of two means and the ends of its 95 % interval, by Welch's t test.

    A single value is taken to be spread as the others are.
    """
    difference = float(ours.mean() - theirs.mean())
    counts = np.array([len(ours), len(theirs)])
    several = [values.var(ddof=1) for values in (ours, theirs) if len(values) > 1]
    parts = np.array(several) / counts
    if len(several) == 1:
        freedom = float(counts.max() - 1)
    else:
        # Welch and Satterthwaite; without any spread the interval is a point for any freedom.
        total = float((parts**2 / (counts - 1)).sum())
        freedom = float(parts.sum() ** 2 / total) if total else 1.0
    half = t_quantile(freedom) * math.sqrt(parts.sum())
    return difference, difference - half, difference + half


def _outcome(difference: float, low: float, high: float) -> str:
    if math.isnan(difference):
        return "none"
    if math.isnan(low) or low <= 0 <= high:
        return "tie"
    return "win" if difference < 0 else "loss"
