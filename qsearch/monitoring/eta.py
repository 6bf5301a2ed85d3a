"""How long a study still takes: an estimate from its limits and from what it has done so far.

What is left of the running phase goes on at the phase's pace. What follows takes as long as the
latest of its kind did, by evaluation or candidate; until a second training has been seen, later
trainings are taken to last as long as the first. Where something that is still to come has never
been seen, nothing is guessed. Later sets, whose size is not known yet, are taken to be as large as
the latest one. Nor is guessed what would take over ten years, as after a clock was set, or more
than a thousand rounds. A study may end earlier by ``search.stop.tolerance``, which nothing can
foresee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from qsearch.monitoring.history import (
    CANDIDATES,
    FINISHING,
    FULL_PRECISION,
    SEARCHING,
    SENSITIVITY,
    SET,
    TRAINING,
    History,
    Phase,
)
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.stopping import MIN_EVALUATIONS, round_shares

_ORDER = (TRAINING, FULL_PRECISION, SENSITIVITY, SET, SEARCHING, CANDIDATES, FINISHING)
_CUT = (SET, SEARCHING, CANDIDATES)
"""What ends when ``search.stop.hours`` are over; a training goes on to its end."""
_BRIEF = (FULL_PRECISION, SENSITIVITY, FINISHING)
"""What counts as no time until it was seen: it is short beside the rest of a round."""

_MAX_SECONDS = 10 * 365 * 86400.0
_MAX_ROUNDS = 1000
"""Further rounds that are looked at: each takes some microseconds, several times a second."""

_BEFORE = 8
"""Evaluations that the phase before counts as, in the pace of the latest one."""


@dataclass(frozen=True)
class TimeLeft:
    """Wall time that a running study is expected to take yet, in seconds; None if unknown.

    Args:
        phase: Until the phase that it is in ends.
        study: Until the study ends.
    """

    phase: float | None
    study: float | None


@dataclass(frozen=True)
class _Step:
    """A phase to come: ``count`` evaluations or candidates, or all of it."""

    kind: str
    round: int
    count: int = 1


def time_left(
    search: SearchSpec, history: History, now: float, spent: float | None = None
) -> TimeLeft:
    """Estimate how long a running study still takes.

    Args:
        search: The study's limits.
        history: What it has told so far.
        now: The time, in seconds since the epoch.
        spent: Wall time of all its sessions in seconds; the history's if omitted.
    """
    phase = history.current
    if phase is None:
        return TimeLeft(None, None)
    left = _left_of_phase(search, history, phase, now)
    before = history.spent(now) if spent is None else spent
    hours = search.stop.hours
    limit = float("inf") if hours is None else max(hours * 3600 - before, 0.0)
    # Phases that are not in the order, such as starting, are brief.
    total = left if phase.kind in (TRAINING, *_CUT) else left or 0.0
    if total is not None and phase.kind in _CUT:
        total = min(total, limit)
    running = None if left is None else max(now - phase.start, 0.0) + left
    costs: dict[tuple[str, int, bool], float | None] = {}  # Most rounds are alike.
    for step in _steps(search, history, phase):
        if total is None or total >= limit:
            break
        if step.round > phase.round + _MAX_ROUNDS:
            total = None
            break
        alike = step.kind, step.count, step.round > 1
        if alike not in costs:
            costs[alike] = _cost(history, step)
        seconds = costs[alike]
        if seconds is None and step.kind == phase.kind and running is not None:
            # The first of its kind still runs.
            count = _shares(search, history, phase.round)[1] if step.kind == SEARCHING else 1
            seconds = running * step.count / max(count, 1)
        total = None if seconds is None else total + seconds
        if total is not None and step.kind in _CUT:
            total = min(total, limit)
    return TimeLeft(_foreseeable(left), _foreseeable(total))


def _foreseeable(seconds: float | None) -> float | None:
    return None if seconds is None or seconds > _MAX_SECONDS else seconds


def _left_of_phase(search: SearchSpec, history: History, phase: Phase, now: float) -> float | None:
    """Return the seconds until a phase ends, by its own pace or by that of the latest alike."""
    if phase.kind in (SET, CANDIDATES):
        pace = _pace(history, phase.kind)
        if pace is None or phase.total is None:
            return None
        return max((phase.total - phase.done) * pace - max(now - phase.last, 0.0), 0.0)
    if _is_done(history, phase.kind, phase.round):
        return 0.0  # In an earlier session; it is loaded now.
    if phase.pace is not None and phase.total is not None:
        own = (phase.total - phase.done) * phase.pace - max(now - phase.last, 0.0)
        return max(own, 0.0)
    count = _shares(search, history, phase.round)[1] if phase.kind == SEARCHING else 1
    whole = _cost(history, _Step(phase.kind, phase.round, count))
    if whole is None or (phase.kind in _BRIEF and not _complete(history, phase.kind)):
        return None
    return max(whole - max(now - phase.start, 0.0), 0.0)


def _shares(search: SearchSpec, history: History, round: int) -> tuple[int, int]:
    used = sum(history.results(earlier) for earlier in range(1, round))
    return round_shares(search, used, _members(search, history, round))


def _members(search: SearchSpec, history: History, round: int) -> int:
    if round in history.members:
        return history.members[round]
    return search.initial_count if round == 1 else history.members.get(round - 1, 0)


def _steps(search: SearchSpec, history: History, phase: Phase) -> Iterator[_Step]:
    """Yield what is to do once a phase has ended."""
    first = phase.round
    # Between two rounds the phase still bears the number of the one before.
    if phase.kind not in _ORDER and _is_done(history, FINISHING, first):
        first += 1
    used = sum(history.results(earlier) for earlier in range(1, first))
    members = _members(search, history, first)
    for round in range(first, search.rounds + 1):
        most = search.stop.evaluations
        if most is not None and most - used < MIN_EVALUATIONS:
            return
        of_set, of_search = round_shares(search, used, members)
        done = history.results(round)
        counts = {
            SET: max(of_set - done, 0),
            SEARCHING: of_search,
            CANDIDATES: max(of_search - max(done - of_set, 0), 0),
        }
        passed = _ORDER.index(phase.kind) if round == phase.round and phase.kind in _ORDER else -1
        for kind in _ORDER[passed + 1 :]:
            if not _is_done(history, kind, round):
                yield _Step(kind, round, counts.get(kind, 1))
        used += of_set + of_search
        members = of_set + of_search if search.keep == "all" else members


def _complete(history: History, kind: str) -> list[Phase]:
    return [phase for phase in history.phases if phase.kind == kind and phase.complete]


def _is_done(history: History, kind: str, round: int) -> bool:
    """Return whether a session has completed what a round does but once."""
    once = kind not in (SET, CANDIDATES) and round <= history.round
    return once and any(phase.round == round for phase in _complete(history, kind))


def _cost(history: History, step: _Step) -> float | None:
    """Return the seconds that a phase will take, by the latest alike; None if none was seen."""
    if step.count == 0:
        return 0.0
    if step.kind in (SET, CANDIDATES):
        pace = _pace(history, step.kind)
        return None if pace is None else step.count * pace
    alike = _complete(history, step.kind)
    if step.kind == TRAINING:
        # The first round trains from nothing; a later one is the better guide to a later one.
        alike = [phase for phase in alike if (phase.round > 1) == (step.round > 1)] or alike
    if not alike:
        return 0.0 if step.kind in _BRIEF else None
    latest = alike[-1]
    if step.kind == SEARCHING:
        return latest.duration * step.count / max(latest.total or 0, 1)
    return latest.duration


def _pace(history: History, kind: str) -> float | None:
    """Return the seconds between two evaluations: of the latest phase alike, or of any.

    One that has just begun says little, as where several workers are about to be done at once. So
    the one before counts as some evaluations more.
    """
    found = [p for p in history.phases if p.kind in (SET, CANDIDATES) and p.pace is not None]
    alike = [p for p in found if p.kind == kind]
    if not found:
        return None
    latest = (alike or found)[-1]
    earlier = found[: found.index(latest)]
    before = [p for p in earlier if p.kind == latest.kind] or earlier
    assert latest.pace is not None
    if not before or before[-1].pace is None:
        return latest.pace
    count = latest.done - latest.first
    return (count * latest.pace + _BEFORE * before[-1].pace) / (count + _BEFORE)


def duration_text(seconds: float) -> str:
    """Return a duration in words of two units at most, such as ``1 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def end_text(seconds: float, now: float) -> str:
    """Return the time in so many seconds, in UTC, with its date where that is another day's.

    Args:
        seconds: Seconds left.
        now: The time, in seconds since the epoch.
    """
    end, today = datetime.fromtimestamp(now + seconds, UTC), datetime.fromtimestamp(now, UTC)
    day = "" if end.date() == today.date() else f"{end:%Y-%m-%d} "
    return f"{day}{end:%H:%M} UTC"


def left_text(seconds: float, now: float) -> str:
    """Return how long something still takes and when it ends, marked as an estimate.

    Args:
        seconds: Seconds left.
        now: The time, in seconds since the epoch.
    """
    return f"about {duration_text(seconds)} left, at {end_text(seconds, now)}"
