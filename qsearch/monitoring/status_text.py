"""A study's status as text, for terminals and the live page."""

from __future__ import annotations

from qsearch._sizes import readable_size
from qsearch._text import in_one_line, with_error
from qsearch.monitoring.durations import duration_text, left_text
from qsearch.monitoring.status import StudyStatus
from qsearch.storage.paths import LOG

_MAX_REASONS = 5
_MAX_CHARACTERS = 160


def status_lines(status: StudyStatus) -> list[tuple[str, str]]:
    """Return a status as labels and texts for a terminal."""
    lines = [("study", _one_line(status.name))] if status.name else []
    if status.version is None:
        lines.append(("results", "none yet"))
    if status.rounds_finished is not None:
        of = "" if status.rounds is None else f" of {status.rounds}"
        lines.append(("rounds finished", f"{status.rounds_finished}{of}"))
    if status.average_bits is not None:
        low, high = status.average_bits
        text = f"{low:.4g} to {high:.4g} average bits"
        if status.bytes is not None:
            text += f", from {' to '.join(map(readable_size, status.bytes))}"
        lines.append(("searched", text))
    limit = "" if status.evaluations is None else f", at most {status.evaluations} in all"
    lines.append(("evaluations", f"{status.completed} completed, {status.failed} failed{limit}"))
    reasons = list(status.failures.items())
    lines += [("failed with", f"{_one_line(text)} ({n} ×)") for text, n in reasons[:_MAX_REASONS]]
    if len(reasons) > _MAX_REASONS:
        more = len(reasons) - _MAX_REASONS
        lines.append(("failed with", f"{more} other reasons; all are in {LOG}"))
    if status.version is not None:
        history = ", ".join(f"{value:.4f}" for value in status.hypervolumes) or "none yet"
        lines += [
            ("configurations", str(status.configurations)),
            ("on the front", str(status.on_front)),
            ("hypervolume" if status.rounds_finished is None else "hypervolume by round", history),
        ]
    if status.reference_point:
        loss, bits = status.reference_point
        lines.append(("reference point", f"loss {with_error(loss)}, average bits {bits:.4f}"))
    lines += [
        ("phase", phase_text(status)),
        ("time spent", _spent_text(status)),
        ("time left", time_left_text(status)),
        ("finished", _one_line(status.finished or "no")),
        ("last event", _event_text(status)),
        ("running", _owner_text(status)),
    ]
    return [(label, text) for label, text in lines if text]


def phase_text(status: StudyStatus) -> str:
    """Return what the study does now, or "" if it is not running."""
    phase = status.phase
    if phase is None:
        return ""
    if status.rounds_finished is None:
        done, of = status.completed + status.failed, status.evaluations
        return "evaluating" if of is None else f"evaluating, {done}/{of}"
    text = f"round {phase.round}: {_one_line(phase.name)}"
    if phase.total is not None:
        text += f", {phase.done}/{phase.total}"
    if phase.per_minute is not None:
        text += f", {_rate_text(phase.per_minute)}"
    return text


def time_left_text(status: StudyStatus) -> str:
    """Return how long the study still takes, or "" if it is not running."""
    if status.phase is None:
        return ""
    now = status.time.timestamp()
    if status.seconds_left is None:
        part = status.phase_seconds_left
        if status.rounds_finished is None:
            return ""
        phase = "" if part is None else f"; this phase {left_text(part, now)}"
        return f"not known yet{phase}"
    sooner = ", or sooner (search.stop.tolerance)" if status.may_end_sooner else ""
    return left_text(status.seconds_left, now) + sooner


def _spent_text(status: StudyStatus) -> str:
    if status.spent_seconds is None:
        return ""
    limit = status.limit_seconds
    of = "" if limit is None else f" of {duration_text(limit)} (search.stop.hours)"
    return duration_text(status.spent_seconds) + of


def _event_text(status: StudyStatus) -> str:
    if status.last_event is None:
        return "none"
    hidden = ["time", "event", *(["round", "rounds"] if status.rounds_finished is None else [])]
    fields = ", ".join(
        f"{name} {f'{value:.6g}' if isinstance(value, float) else value}"
        for name, value in status.last_event.items()
        if name not in hidden and value is not None
    )
    text = f"{status.last_event.get('event', '?')} at {status.last_event.get('time', '?')}"
    return _one_line(f"{text}: {fields}" if fields else text)


def _owner_text(status: StudyStatus) -> str:
    if status.running is not None:
        return status.running.describe()
    if status.died is not None:
        return f"no; the last owner, {status.died.describe()}, died"
    return "no"


def _rate_text(per_minute: float) -> str:
    if per_minute < 1:
        return f"{60 * per_minute:.2g} an hour"
    return f"{per_minute:.0f} a minute" if per_minute >= 10 else f"{per_minute:.1f} a minute"


def _one_line(text: str) -> str:
    """Return text cut to a line of the terminal."""
    return in_one_line(text, _MAX_CHARACTERS)
