"""Events of a running study that are worth a line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qsearch.monitoring.durations import duration_text
from qsearch.monitoring.events import Event, EventKind


def event_text(event: Event) -> str | None:
    """Return an event as a line of text; None if it is not worth one."""
    text = _TEXTS.get(event.kind)
    return text(f"round {event.round}: ", _Fields(event.fields)) if text else None


class _Fields(dict[str, Any]):
    """An event's fields; one that is missing reads as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"

    @property
    def seconds(self) -> str:
        seconds = self["seconds"]
        return duration_text(seconds) if isinstance(seconds, int | float) else "?"

    @property
    def trial(self) -> str:
        return f"trial {self['trial']}" if "trial" in self else "an evaluation"

    @property
    def changed(self) -> str:
        return "; ".join(map(str, self["changed"]))


def _storage_lost(_: str, fields: _Fields) -> str:
    limit = f", {fields.seconds} at most" if "seconds" in fields else ""
    return f"the database is lost: {fields['reason']}; waiting for it{limit}"


def _round_finished(round: str, fields: _Fields) -> str:
    value = fields["hypervolume"]
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f"{round}hypervolume {text}, next set {fields['next_set']} configurations"


_TEXTS: dict[EventKind, Callable[[str, _Fields], str]] = {
    EventKind.TRAINED: lambda r, f: f"{r}trained {f['steps']} steps in {f.seconds}",
    EventKind.SEARCHING_AGAIN: lambda r, f: f"{r}the database lacks some candidates",
    EventKind.SEARCHED: lambda r, f: f"{r}found {f['candidates']} candidates",
    EventKind.FAILED: lambda r, f: f"{r}{f.trial} failed: {f['reason']}",
    EventKind.FULL_PRECISION_FAILED: lambda r, f: (
        f"{r}without quantization, the model could not be evaluated: {f['reason']}"
    ),
    EventKind.RETRY: lambda r, f: (
        f"{r}{f.trial} failed at attempt {f['attempt']} and is tried again: {f['reason']}"
    ),
    EventKind.RETRYING: lambda r, f: (
        f"{r}trying again what failed: {len(f.get('trials', ()))} evaluations"
    ),
    EventKind.WORKER_LOST: lambda r, f: f"{r}a worker is lost: {f['reason']}",
    EventKind.WORKER_GIVEN_UP: lambda r, f: f"{r}a worker is given up: {f['reason']}",
    EventKind.WAITING_FOR_WORKERS: lambda r, f: f"{r}waiting for workers",
    EventKind.STORAGE_LOST: _storage_lost,
    EventKind.STORAGE_BACK: lambda r, f: f"the database is back after {f.seconds}",
    EventKind.TAKEN_OVER: lambda r, f: f"taken over from one that died: {f['owner']}",
    EventKind.ENVIRONMENT_CHANGED: lambda r, f: f"changed since the last session: {f.changed}",
    EventKind.LIMITS_CHANGED: lambda r, f: f"limits changed: {f.changed}",
    EventKind.ROUND_FINISHED: _round_finished,
}
