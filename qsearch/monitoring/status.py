"""How far a study is, from the files in its directory: for other terminals and the live page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qsearch.errors import InputError, QsearchError
from qsearch.monitoring.eta import duration_text, left_text, time_left
from qsearch.monitoring.events import finite, read_events
from qsearch.monitoring.history import History, Phase, replay
from qsearch.monitoring.progress_file import read_progress
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.yaml_loader import MAX_BYTES, parse_yaml
from qsearch.storage.bounded_reading import read_text
from qsearch.storage.clock import read_seconds
from qsearch.storage.lock import Owner, dead_owner, lock_owner
from qsearch.storage.paths import CLOCK, STUDY_FILE, TRIALS_FILE
from qsearch.storage.study_record import StudyRecord, read_study

LOG, STUDY_YAML = "log.jsonl", "study.yaml"
"""As in :mod:`qsearch.storage.directory`, which would import PyTorch."""

_SHOWN_REASONS = 5
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class PhaseStatus:
    """What a running study does now.

    Args:
        name: The phase.
        round: Its round.
        done: Steps, evaluations or candidates done, if it counts.
        total: How many there are.
        per_minute: How many come in a minute, if that is known.
        since: When it began, ISO 8601, UTC.
    """

    name: str
    round: int
    done: int | None
    total: int | None
    per_minute: float | None
    since: str


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is; what is not known is None.

    Args:
        name: The study's name.
        running: Who runs it.
        died: Who ran it last, if that process died.
        finished: Why it is finished.
        phase: What it does now.
        rounds_finished: Finished rounds.
        rounds: Most rounds.
        completed: Evaluations with a result.
        failed: Evaluations that failed.
        evaluations: Most evaluations.
        configurations: Different configurations among the results.
        on_front: Configurations on the front of the latest round.
        hypervolumes: By finished round.
        reference_point: Loss and average bits that hypervolume is measured from.
        spent_seconds: Wall time of all sessions.
        limit_seconds: Most wall time.
        phase_seconds_left: Estimate of the wall time until the phase ends.
        seconds_left: Estimate of the wall time until the study ends.
        end: Estimate of when that is, ISO 8601, UTC.
        may_end_sooner: Whether ``search.stop.tolerance`` may end it before.
        failures: How many evaluations failed by reason, the most frequent first.
        last_event: The last line of the log.
        notes: What the user should know, such as a damaged file whose previous version was read.
        version: Another one where the results have changed; None without results.
        time: When all this was found, ISO 8601, UTC.
    """

    name: str | None
    running: dict[str, Any] | None
    died: dict[str, Any] | None
    finished: str | None
    phase: PhaseStatus | None
    rounds_finished: int
    rounds: int | None
    completed: int
    failed: int
    evaluations: int | None
    configurations: int
    on_front: int
    hypervolumes: tuple[float, ...]
    reference_point: tuple[float, float] | None
    spent_seconds: float | None
    limit_seconds: float | None
    phase_seconds_left: float | None
    seconds_left: float | None
    end: str | None
    may_end_sooner: bool
    failures: tuple[tuple[str, int], ...]
    last_event: dict[str, Any] | None
    notes: tuple[str, ...]
    version: str | None
    time: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        failures = [{"reason": reason, "count": count} for reason, count in self.failures]
        found: dict[str, Any] = finite({**asdict(self), "failures": failures})
        return found

    def lines(self) -> list[tuple[str, str]]:
        """Return it as labels and texts for a terminal."""
        lines = [("study", _one_line(self.name))] if self.name else []
        if self.version is None:
            lines.append(("results", "none yet"))
        of = "" if self.rounds is None else f" of {self.rounds}"
        lines.append(("rounds finished", f"{self.rounds_finished}{of}"))
        limit = "" if self.evaluations is None else f", at most {self.evaluations} in all"
        lines.append(("evaluations", f"{self.completed} completed, {self.failed} failed{limit}"))
        for reason, count in self.failures[:_SHOWN_REASONS]:
            lines.append(("failed with", f"{_one_line(reason)} ({count} ×)"))
        if len(self.failures) > _SHOWN_REASONS:
            more = len(self.failures) - _SHOWN_REASONS
            lines.append(("failed with", f"{more} other reasons; all are in {LOG}"))
        if self.version is not None:
            history = ", ".join(f"{value:.4f}" for value in self.hypervolumes) or "none yet"
            lines += [
                ("configurations", str(self.configurations)),
                ("on the front", str(self.on_front)),
                ("hypervolume by round", history),
            ]
        if self.reference_point:
            loss, bits = self.reference_point
            lines.append(("reference point", f"loss {loss:.4f}, average bits {bits:.4f}"))
        lines += self._times()
        lines += [("note", text) for text in self.notes]
        lines.append(("finished", _one_line(self.finished or "no")))
        lines.append(("last event", self._event_text()))
        lines.append(("running", self._owner_text()))
        return lines

    def phase_text(self) -> str:
        """Return what the study does now in words, or "" if it does not run."""
        if self.phase is None:
            return ""
        phase = self.phase
        text = f"round {phase.round}: {_one_line(phase.name)}"
        if phase.total is not None:
            text += f", {phase.done}/{phase.total}"
        if phase.per_minute is not None:
            text += f", {_rate_text(phase.per_minute)}"
        return text

    def left_text(self) -> str:
        """Return how long the study still takes in words, or "" if it does not run."""
        if self.running is None or self.phase is None:
            return ""
        now = datetime.fromisoformat(self.time).timestamp()
        if self.seconds_left is None:
            part = self.phase_seconds_left
            phase = "" if part is None else f"; this phase {left_text(part, now)}"
            return f"not known yet{phase}"
        sooner = ", or sooner (search.stop.tolerance)" if self.may_end_sooner else ""
        return left_text(self.seconds_left, now) + sooner

    def _times(self) -> list[tuple[str, str]]:
        lines = []
        if self.phase is not None:
            lines.append(("phase", self.phase_text()))
        if self.spent_seconds is not None:
            limit = self.limit_seconds
            of = "" if limit is None else f" of {duration_text(limit)} (search.stop.hours)"
            lines.append(("time spent", duration_text(self.spent_seconds) + of))
        if self.left_text():
            lines.append(("time left", self.left_text()))
        return lines

    def _event_text(self) -> str:
        """Return the log's last event; what ends in -ing is a phase that began then."""
        if self.last_event is None:
            return "none"
        event = self.last_event
        kind = str(event.get("event", "?"))
        goes_on = self.running is not None and kind.partition(" ")[0].endswith("ing")
        told = {k: v for k, v in event.items() if k not in ("time", "event")}
        fields = ", ".join(f"{k} {_figure(v)}" for k, v in told.items())
        when = f"{kind}{', since' if goes_on else ' at'} {event.get('time', '?')}"
        return _one_line(f"{when}: {fields}" if fields else when)

    def _owner_text(self) -> str:
        if self.running is not None:
            return Owner(**self.running).describe()
        if self.died is not None:
            return f"no; the last owner, {Owner(**self.died).describe()}, died"
        return "no"


def study_status(directory: Path, now: float | None = None) -> StudyStatus:
    """Return how far the study in a directory is, without touching the directory.

    Args:
        directory: The study's directory.
        now: The time in seconds since the epoch; the system's if omitted.

    Raises:
        InputError: If the directory holds no study, or its files cannot be read.
    """
    now = time.time() if now is None else now
    # Before the rest is read: what changes meanwhile shall change the version that comes next.
    version = results_version(directory)
    owner = lock_owner(directory)
    lines = read_events(directory / LOG)
    # A study has no results yet while it loads its model and measures quantization errors.
    is_new = version is None and (owner is not None or bool(lines))
    notes: list[str] = []
    record = None if is_new else read_study(directory)
    history = replay(lines, read_progress(directory))
    search = _read_search(directory)
    phase = history.current if owner else None
    spent = _spent(directory, owner, history, now)
    left = time_left(search, history, now, spent) if search and phase else None
    died = None if owner else dead_owner(directory)
    last = lines[-1] if lines else None
    end = left.study if left else None
    return StudyStatus(
        **_results(record, history, bool(lines)),
        running=owner.note() if owner else None,
        died=died.note() if died else None,
        finished=finish_reason(last) or None,
        phase=_phase_status(phase) if phase else None,
        rounds=search.rounds if search else None,
        evaluations=search.stop.evaluations if search else None,
        spent_seconds=spent,
        limit_seconds=3600 * search.stop.hours if search and search.stop.hours else None,
        phase_seconds_left=left.phase if left else None,
        seconds_left=end,
        end=None if end is None else _iso(now + end),
        may_end_sooner=search is not None and search.stop.tolerance is not None,
        last_event=last,
        notes=tuple(notes),
        version=version,
        time=_iso(now),
    )


def finish_reason(event: Mapping[str, Any] | None) -> str:
    """Return why a study is finished, by the last event of its log, or "" if it is not."""
    if event is None or event.get("event") != "finished":
        return ""
    return str(event.get("reason", "yes"))


def results_version(directory: Path) -> str | None:
    """Return a text that is another one where a study's results have changed; None without any."""
    if not (directory / STUDY_FILE).is_file():
        return None
    found = []
    for name in (STUDY_FILE, TRIALS_FILE):
        try:
            facts = (directory / name).stat()
        except OSError:
            continue
        found.append(f"{facts.st_mtime_ns:x}-{facts.st_size:x}")
    return "-".join(found)


def _results(record: StudyRecord | None, history: History, has_log: bool) -> dict[str, Any]:
    """Return what results and log know; the log is ahead of the table while a phase runs."""
    told = sum(len(trials) for trials in history.completed.values())
    if record is None:
        return {
            "name": None,
            "rounds_finished": 0,
            "completed": told,
            "failed": len(history.failed),
            "configurations": 0,
            "on_front": 0,
            "hypervolumes": (),
            "reference_point": None,
            "failures": tuple(history.reasons.most_common()),
        }
    lost = record.trials["status"] == "failed"
    # A log may lack what a killed process had saved, or have been left behind.
    reasons = history.reasons if has_log else Counter(map(str, record.trials["reason"][lost]))
    return {
        "name": record.name,
        "rounds_finished": len(record.rounds),
        "completed": max(told, len(record.trials) - int(lost.sum())),
        "failed": sum(reasons.values()),
        "configurations": int(record.trials["trial"].nunique()),
        "on_front": int(record.latest["on_front"].sum()),
        "hypervolumes": tuple(entry.hypervolume for entry in record.rounds),
        "reference_point": record.reference_point,
        "failures": tuple(reasons.most_common()),
    }


def _phase_status(phase: Phase) -> PhaseStatus:
    pace, total = phase.pace, phase.total
    return PhaseStatus(
        name=phase.label,
        round=phase.round,
        done=None if total is None else phase.done,
        total=total,
        per_minute=60 / pace if pace else None,
        since=_iso(phase.start),
    )


def _spent(directory: Path, owner: Owner | None, history: History, now: float) -> float | None:
    """Return the wall time of all sessions: as saved, and what has passed since then."""
    path = directory / CLOCK
    try:
        saved, at = read_seconds(path), path.stat().st_mtime
    except (OSError, QsearchError):
        return history.spent(now if owner else None) if history.sessions else None
    if owner is None:
        return saved
    try:
        since = datetime.fromisoformat(owner.since or "").timestamp()
    except (ValueError, OverflowError):
        since = at
    return saved + max(now - max(at, since), 0.0)


def _read_search(directory: Path) -> SearchSpec | None:
    """Return the study's limits, or None if they cannot be read."""
    try:
        text = read_text(directory / STUDY_YAML, MAX_BYTES)
        return SearchSpec.model_validate(parse_yaml(text, STUDY_YAML)["search"])
    except (InputError, ValidationError, LookupError, OSError, TypeError, ValueError):
        return None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _rate_text(per_minute: float) -> str:
    if per_minute < 1:
        return f"{60 * per_minute:.2g} an hour"
    return f"{per_minute:.0f} a minute" if per_minute >= 10 else f"{per_minute:.1f} a minute"


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _one_line(text: str | None) -> str:
    """Return text cut to a line of the terminal."""
    plain = " ".join((text or "").split())
    return plain if len(plain) <= _SHOWN_CHARACTERS else f"{plain[: _SHOWN_CHARACTERS - 1]}…"
