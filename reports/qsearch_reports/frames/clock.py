"""When things happened in a study, in minutes of running."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qsearch_reports.frames.history import History
from qsearch_reports.texts import whole_text

_MAX = 2**53
"""What no count nor time of a study comes near; tables cannot hold any number beyond."""

_COLUMNS = ["trial", "round", "status", "reason", "seconds", "minutes"]


def log_history(events: Sequence[Mapping[str, Any]]) -> tuple[History, pd.DataFrame]:
    """Return what a log says of a study, and a table of evaluations in the order of their results.

    ``seconds`` are NaN of a failure, since the log does not say how long it took; ``minutes`` are
    of running, until the result came.
    """
    history = History()
    rows = []
    # A log may have thousands of sessions: those that are over are added up once.
    before, ended = 0.0, 0
    for line in events:
        history.add(line)
        kind, trial, round = line.get("event"), line.get("trial"), line.get("round")
        if kind not in ("evaluated", "failed") or not history.sessions:
            continue
        if not (_is_count(trial) and _is_count(round)):
            continue
        while ended < len(history.sessions) - 1:
            session = history.sessions[ended]
            before, ended = before + max(session.last - session.start, 0.0), ended + 1
        session = history.sessions[-1]
        is_failed = kind == "failed"
        rows.append(
            {
                "trial": trial,
                "round": round,
                "status": "failed" if is_failed else "completed",
                "reason": whole_text(line.get("reason", "")) if is_failed else "",
                "seconds": math.nan if is_failed else _seconds(line.get("seconds")),
                "minutes": (before + max(session.last - session.start, 0.0)) / 60,
            }
        )
    return history, pd.DataFrame(rows, columns=_COLUMNS)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < _MAX


def _seconds(value: object) -> float:
    is_number = isinstance(value, int | float) and abs(value) < _MAX
    return float(value) if is_number else math.nan  # type: ignore[arg-type]


def running_minutes(history: History, times: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return times as minutes of running since the study began.

    Time without a running session is left out: a study that stopped overnight continues where it
    was.
    """
    at, passed, before = [], [], 0.0
    for session in history.sessions:
        length = max(session.last - session.start, 0.0)
        at += [session.start, session.start + length]
        passed += [before, before + length]
        before += length
    if not at:
        return np.full(np.shape(times), np.nan)
    # A clock that was set back must not make time run backwards.
    known = np.maximum.accumulate(at)
    minutes: npt.NDArray[np.float64] = np.interp(np.asarray(times, dtype=float), known, passed) / 60
    return minutes
