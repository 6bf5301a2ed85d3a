"""Events of a running study that are worth a line of text."""

from __future__ import annotations

from qsearch.monitoring.durations import duration_text
from qsearch.monitoring.events import Event, EventKind

_TEXTS = {
    EventKind.TRAINED: "round {round}: trained {steps} steps in {duration}",
    EventKind.SEARCHING_AGAIN: "round {round}: the database lacks some candidates",
    EventKind.SEARCHED: "round {round}: found {candidates} candidates",
    EventKind.FAILED: "round {round}: trial {trial} failed: {reason}",
    EventKind.REFERENCE_FAILED: (
        "round {round}: the model that evaluations are compared with could not be evaluated:"
        " {reason}"
    ),
    EventKind.FULL_PRECISION_FAILED: (
        "round {round}: without quantization, the model could not be evaluated: {reason}"
    ),
    EventKind.RETRY: (
        "round {round}: trial {trial} failed at attempt {attempt} and is tried again: {reason}"
    ),
    EventKind.RETRYING: "round {round}: trying again what failed: {count} evaluations",
    EventKind.WORKER_LOST: "round {round}: a worker is lost: {reason}",
    EventKind.WORKER_GIVEN_UP: "round {round}: a worker is given up: {reason}",
    EventKind.WAITING_FOR_WORKERS: "round {round}: waiting for workers",
    EventKind.STORAGE_LOST: "the database is lost: {reason}; waiting for it",
    EventKind.STORAGE_BACK: "the database is back after {duration}",
    EventKind.TAKEN_OVER: "taken over from one that died: {owner}",
    EventKind.ENVIRONMENT_CHANGED: "changed since the last session: {listed}",
    EventKind.NOTED: "{noted}",
    EventKind.LIMITS_CHANGED: "limits changed: {listed}",
    EventKind.ROUND_FINISHED: (
        "round {round}: hypervolume {hypervolume:.4f}, next set {next_set} configurations"
    ),
}


def event_text(event: Event) -> str | None:
    """Return an event as a line of text; None if it is not worth one."""
    fields, text = event.fields, _TEXTS.get(event.kind)
    if text is None:
        return None
    shown = {
        "round": event.round,
        "duration": duration_text(fields.get("seconds", 0.0)),
        "listed": "; ".join(map(str, fields.get("changed", ()))),
        "noted": "\n".join(f"note: {note}" for note in fields.get("notes", ())),
        "count": len(fields.get("trials", ())),
    }
    return text.format_map(fields | shown)
