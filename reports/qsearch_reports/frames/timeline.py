"""What a study did when: evaluations, failed ones among them, and phases."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import pandas as pd

from qsearch.monitoring.events import Phase
from qsearch_reports.frames.clock import log_history, running_minutes
from qsearch_reports.frames.points import points_frame, seen_in_training
from qsearch_reports.results import StudyResults

_BRIEF = (Phase.STARTING, Phase.QUANTIZATION_ERROR, Phase.REFERENCE, Phase.FULL_PRECISION)
"""Phases of which it does not matter whether they were cut off."""

_OVERLAP = 0.1
"""Share of its own time by which an evaluation may begin before another in its lane ends: results
are logged once they are saved, so that starts are known roughly."""


def timeline_frame(results: StudyResults) -> pd.DataFrame:
    """Return when each evaluation ran.

    There is a row per result in the log, in the order in which they came, and then one per
    evaluation that it lacks, without times. ``start`` is ``end`` less ``seconds``, NaN of a failure
    as they are. A trial that failed, was tried again and completed has a row for each.
    """
    record = results.record
    points = points_frame(record)
    _, logged = log_history(results.events)
    trials = record.trials[["trial", "round", "status", "reason", "seen", "seconds"]]
    keys = ["round", "trial", "status"]
    of_log = set(logged[keys].itertuples(index=False, name=None))
    is_logged = [key in of_log for key in trials[keys].itertuples(index=False, name=None)]
    lacking = trials[~np.array(is_logged, dtype=bool)].sort_values(["round", "trial"])
    rows = [logged.assign(seen=False), lacking.assign(minutes=np.nan)]
    frame = pd.concat([part for part in rows if len(part)] or rows[:1], ignore_index=True)
    at = pd.MultiIndex.from_frame(frame[["round", "trial"]])
    row = _looked_up(points.assign(row=points.index), "row", at, -1)
    is_failed = (frame["status"] == "failed").to_numpy(dtype=bool)
    end = frame["minutes"].to_numpy(dtype=float)
    seconds = np.where(is_failed, np.nan, frame["seconds"].to_numpy(dtype=float))
    start = np.maximum(end - seconds / 60, 0.0)
    seen = pd.Series(_looked_up(record.trials, "seen", at, False))
    return pd.DataFrame(
        {
            "row": np.where(is_failed, -1, row).astype(int),
            "trial": frame["trial"].astype(int),
            "round": frame["round"].astype(int),
            "status": frame["status"].astype(str),
            "reason": frame["reason"].astype(str),
            "seen": seen_in_training(record, seen),
            "seconds": seconds,
            "start": start,
            "end": end,
            "lane": _lanes(np.where(np.isnan(start), end, start), end),
        }
    )


def phases_frame(results: StudyResults) -> pd.DataFrame:
    """Return what the study was doing when, in order, without phases that took no time.

    Empty without a log.
    """
    history, _ = log_history(results.events)
    last = history.sessions[-1].last if history.sessions else np.nan
    phases = history.phases
    start = running_minutes(history, [phase.start for phase in phases])
    end = running_minutes(history, [last if p.end is None else p.end for p in phases])
    frame = pd.DataFrame(
        {
            "phase": [phase.phase for phase in phases],
            "round": [phase.round for phase in phases],
            "start": start,
            "end": end,
            "complete": [phase.complete or phase.phase in _BRIEF for phase in phases],
        }
    )
    return frame[frame["end"] > frame["start"]].reset_index(drop=True)


def _looked_up(
    table: pd.DataFrame, column: str, at: pd.MultiIndex, otherwise: object
) -> np.ndarray:
    """Return a column by round and trial (rows of ``at``)."""
    values = table.drop_duplicates(["round", "trial"]).set_index(["round", "trial"])[column]
    rows = values.astype(object).reindex(at)
    return rows.where(rows.notna(), otherwise).to_numpy()


def _lanes(start: Sequence[float] | np.ndarray, end: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the lowest lane that is free for each evaluation; −1 where times are missing."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    lanes = np.full(len(start), -1)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for at in np.argsort(start, kind="stable"):
        if np.isnan(start[at]):
            continue
        while busy and busy[0][0] <= start[at] + _OVERLAP * (end[at] - start[at]):
            heapq.heappush(free, heapq.heappop(busy)[1])
        lanes[at] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end[at], lanes[at]))
    return lanes
