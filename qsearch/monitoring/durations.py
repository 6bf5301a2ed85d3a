"""Durations and times of day as text."""

from __future__ import annotations

from datetime import UTC, datetime


def duration_text(seconds: float) -> str:
    """Return a duration in two units at most, such as ``1 h 12 min``."""
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


def left_text(seconds: float, now: float) -> str:
    """Return how long something still takes and when it ends, marked as an estimate.

    The end is in UTC, with its date where that is another day's; ``now`` is in seconds since the
    epoch.
    """
    end, today = datetime.fromtimestamp(now + seconds, UTC), datetime.fromtimestamp(now, UTC)
    day = "" if end.date() == today.date() else f"{end:%Y-%m-%d} "
    return f"about {duration_text(seconds)} left, at {day}{end:%H:%M} UTC"
