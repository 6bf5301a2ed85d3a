"""What a study would have logged, for a record of its results."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from qsearch.plugins.trial_columns import TRIAL_COLUMNS
from qsearch.storage.study_record import RoundRecord, StudyRecord

START = "2026-11-27T09:00:00+00:00"
SAVING = 0.04
"""Seconds from the end of an evaluation until it is told: it is saved first."""


def log_events(record: StudyRecord, workers: int = 2) -> list[dict[str, Any]]:
    """Return lines of a log, first one first.

    Each round trains, measures sensitivities, evaluates its set, searches, and evaluates
    candidates, by ``workers`` at once. After the first round it stops, and continues hours later.
    """
    log = _Log(datetime.fromisoformat(START))
    log.tell("measuring quantization error", 1)
    log.passes(6.0)
    log.tell("measured quantization error", 1, seconds=6.0)
    log.tell("started", 1, rounds=max(len(record.rounds), 1))
    log.passes(1.0)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        _round(log, entry, rows, workers)
        if entry.round == 1 and len(record.rounds) > 1:
            log.tell("stopped", 2, reason="the disk is full")
            log.passes(8 * 3600)
            log.tell("started", 2, rounds=len(record.rounds))
            log.passes(1.0)
    log.tell("finished", max(len(record.rounds), 1), reason="all rounds are done")
    return log.lines


class _Log:
    def __init__(self, now: datetime) -> None:
        self.now = now
        self.lines: list[dict[str, Any]] = []

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def tell(self, kind: str, round: int, **fields: object) -> None:
        time = self.now.isoformat(timespec="milliseconds")
        self.lines.append({"time": time, "event": kind, "round": round, **fields})


def _round(log: _Log, entry: RoundRecord, rows: pd.DataFrame, workers: int) -> None:
    number = entry.round
    log.tell("round started", number, training_set=len(entry.training_set))
    log.passes(entry.train_seconds)
    log.tell(
        "trained",
        number,
        steps=len(entry.train_losses),
        seconds=entry.train_seconds,
        loss=entry.train_losses[-1] if entry.train_losses else None,
    )
    log.tell("measuring sensitivity", number)
    log.passes(2.5)
    log.tell("measured sensitivity", number, seconds=2.5)
    is_of_set = rows["trial"].isin(entry.training_set)
    _evaluate(log, "evaluating the set", number, rows[is_of_set], workers)
    log.passes(entry.search_seconds)
    log.tell("searched", number, candidates=int((~is_of_set).sum()))
    _evaluate(log, "evaluating candidates", number, rows[~is_of_set], workers)
    log.passes(0.8)
    log.tell("round finished", number, hypervolume=entry.hypervolume, next_set=24)
    log.passes(0.1)


def _evaluate(log: _Log, phase: str, number: int, rows: pd.DataFrame, workers: int) -> None:
    log.tell(phase, number, total=len(rows))
    begin = log.now
    free = [0.0] * workers
    told: list[tuple[float, pd.Series]] = []
    for _, row in rows.iterrows():
        worker = free.index(min(free))
        free[worker] += float(row["seconds"]) + SAVING
        told.append((free[worker], row))
    for done, (after, row) in enumerate(sorted(told, key=lambda pair: pair[0]), start=1):
        log.now = begin + timedelta(seconds=after)
        trial = int(row["trial"])
        if row["status"] == "failed":
            log.tell("failed", number, trial=trial, reason=row["reason"])
            continue
        log.tell(
            "evaluated",
            number,
            trial=trial,
            average_bits=float(row["average_bits"]),
            loss=float(row["loss"]),
            metrics={name: float(row[name]) for name in row.index[len(TRIAL_COLUMNS) :: 2]},
            seconds=float(row["seconds"]),
            done=done,
            total=len(rows),
        )
