"""How far a study is, from the files in its directory: for other terminals and the live page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qsearch.errors import InputError, QsearchError
from qsearch.monitoring.events import last_event
from qsearch.monitoring.status_file import PhaseStatus, SavedStatus, read_status, utc_time
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.yaml_text import MAX_BYTES, parse_yaml
from qsearch.storage.bounded_reading import read_text
from qsearch.storage.clock import read_seconds
from qsearch.storage.lock import Owner, dead_owner, lock_owner
from qsearch.storage.paths import CLOCK, LOG, STUDY_FILE, STUDY_YAML, TRIALS_FILE
from qsearch.storage.study_record import StudyRecord, empty_trials, read_study


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is; what is not known is None.

    Args:
        died: Who ran it last, if that process died.
        finished: Why it is finished.
        phase: What it does now, if it is running.
        rounds_finished: None in a study of an objective, which has no rounds.
        rounds, evaluations, limit_seconds: The study's limits.
        on_front: Configurations on the front of the last finished round.
        reference_point: Loss and average bits that hypervolume is measured from.
        average_bits: Interval of average bits that is searched, as it follows from ``bytes``, too.
        bytes: That of ``search.bytes``, if the study gives one.
        phase_seconds_left: Estimate by the phase's pace.
        seconds_left: Estimate by the finished rounds, until the study ends.
        may_end_sooner: Whether ``search.stop.tolerance`` may end it before.
        failures: How many evaluations failed by reason, the most frequent first.
        last_event: The last line of the log.
        version: Another one where the results have changed; None without results.
        time: When all this was read.
    """

    name: str | None
    running: Owner | None
    died: Owner | None
    finished: str | None
    phase: PhaseStatus | None
    rounds_finished: int | None
    rounds: int | None
    completed: int
    failed: int
    evaluations: int | None
    configurations: int
    on_front: int
    hypervolumes: tuple[float, ...]
    reference_point: tuple[float, float] | None
    average_bits: tuple[float, float] | None
    bytes: tuple[int, int] | None
    spent_seconds: float | None
    limit_seconds: float | None
    phase_seconds_left: float | None
    seconds_left: float | None
    end: datetime | None
    may_end_sooner: bool
    failures: Mapping[str, int]
    last_event: dict[str, Any] | None
    version: str | None
    time: datetime

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        failures = [{"reason": reason, "count": n} for reason, n in self.failures.items()]
        values = {name: value for name, value in vars(self).items() if name != "failures"}
        plain = TypeAdapter(dict[str, Any]).dump_python(values, mode="json")
        return {**plain, "failures": failures}


def study_status(directory: Path, now: float | None = None) -> StudyStatus:
    """Return how far the study in a directory is, without touching the directory.

    ``now`` is in seconds since the epoch. A directory without a study is an InputError.
    """
    now = time.time() if now is None else now
    # Read the version first, so that a concurrent change is noticed next time.
    version = results_version(directory)
    owner = lock_owner(directory)
    event = last_event(directory / LOG)
    # A study has no results yet while it loads its model and measures quantization errors.
    is_new = version is None and (owner is not None or event is not None)
    record = None if is_new else read_study(directory)
    saved, search = read_status(directory), _read_search(directory)
    # What a killed run left says what it did, not what is being done.
    running = saved if owner else None
    age = max(now - saved.time.timestamp(), 0.0) if saved else 0.0
    left = _less(running.seconds_left, age) if running and running.phase else None
    return StudyStatus(
        **_results(record, saved),
        running=owner,
        died=None if owner else dead_owner(directory),
        finished=finish_reason(event) or None,
        phase=running.phase if running else None,
        bytes=search.bytes if search else None,
        rounds=search.rounds if search else None,
        evaluations=search.stop.evaluations if search else None,
        spent_seconds=running.spent_seconds + age if running else _spent(directory),
        limit_seconds=3600 * search.stop.hours if search and search.stop.hours else None,
        phase_seconds_left=_phase_left(running, age) if running else None,
        seconds_left=left,
        end=None if left is None else utc_time(now + left),
        may_end_sooner=search is not None and search.stop.tolerance is not None,
        last_event=event,
        version=version,
        time=utc_time(now),
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
    versions = []
    for name in (STUDY_FILE, TRIALS_FILE):
        try:
            facts = (directory / name).stat()
        except OSError:
            continue
        versions.append(f"{facts.st_mtime_ns:x}-{facts.st_size:x}")
    return "-".join(versions)


def _results(record: StudyRecord | None, saved: SavedStatus | None) -> dict[str, Any]:
    """Return what the record knows; the running study is ahead of it within a phase."""
    trials = record.trials if record else empty_trials()
    rounds = record.rounds if record else ()
    saved_count = saved.completed if saved else 0
    reasons = Counter(map(str, trials["reason"][trials["status"] == "failed"]))
    failures = saved.failures if saved else dict(reasons.most_common())
    return {
        "name": record.name if record else None,
        "rounds_finished": None if record and not record.is_trained else len(rounds),
        "completed": max(saved_count, int((trials["status"] == "completed").sum())),
        "failed": sum(failures.values()),
        "failures": failures,
        "configurations": int(trials["trial"].nunique()),
        "on_front": int(record.latest["on_front"].sum()) if record else 0,
        "hypervolumes": tuple(entry.hypervolume for entry in rounds),
        "reference_point": record.reference_point if record else None,
        "average_bits": record.searched_bits if record else None,
    }


def _phase_left(saved: SavedStatus, age: float) -> float | None:
    phase = saved.phase
    if phase is None or phase.per_minute is None or phase.total is None or phase.done is None:
        return None
    return _less((phase.total - phase.done) * 60 / phase.per_minute, age)


def _less(seconds: float | None, age: float) -> float | None:
    return None if seconds is None else max(seconds - age, 0.0)


def _spent(directory: Path) -> float | None:
    try:
        return read_seconds(directory / CLOCK)
    except (OSError, QsearchError):
        return None


def _read_search(directory: Path) -> SearchSpec | None:
    """Return the study's limits, or None if they cannot be read."""
    try:
        text = read_text(directory / STUDY_YAML, MAX_BYTES)
        return SearchSpec.model_validate(parse_yaml(text, STUDY_YAML)["search"])
    except (InputError, ValidationError, LookupError, OSError, TypeError, ValueError):
        return None
