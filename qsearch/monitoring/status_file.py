"""``state/status.json``: how far a running study is, as it says itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from qsearch.storage.bounded_reading import MAX_STATE, read_text
from qsearch.storage.paths import STATUS_FILE

MAX_SECONDS = 10 * 365 * 86400.0
"""Estimates beyond ten years come of a clock that was set, or mean nothing."""

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Seconds = Annotated[float, Field(ge=0, le=10 * MAX_SECONDS)]


class PhaseStatus(BaseModel):
    """What a running study does now: a phase, or the part of it that counts by itself.

    If it counts, ``done`` of ``total`` steps, evaluations or candidates are done.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    round: _Count
    done: _Count | None
    total: _Count | None
    per_minute: float | None = Field(gt=0, allow_inf_nan=False)
    since: AwareDatetime


class SavedStatus(BaseModel):
    """How far a study was at a time; ended, it has no phase. Times are wall times of all sessions.

    Args:
        completed: Evaluations with a result, over all rounds.
        failures: How many evaluations failed by reason, the most frequent first.
        finished_seconds: Time until the last finished round ended.
        seconds_left: Estimate of the time until the study ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: AwareDatetime
    phase: PhaseStatus | None
    completed: _Count
    failures: dict[str, _Count]
    spent_seconds: _Seconds
    finished_seconds: _Seconds
    seconds_left: _Seconds | None


def utc_time(seconds: float) -> datetime:
    """Return a time, given in seconds since the epoch, to milliseconds."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def write_status(directory: Path, status: SavedStatus) -> None:
    """Write the file atomically, without waiting for the disk: losing it harms nothing.

    A link in its place is replaced, not followed.
    """
    path = directory / STATUS_FILE
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as stream:
        stream.write(status.model_dump_json())
    temporary.replace(path)


def read_status(directory: Path) -> SavedStatus | None:
    """Return what was last written, or None if nothing can be read."""
    try:
        return SavedStatus.model_validate_json(read_text(directory / STATUS_FILE, MAX_STATE))
    except (OSError, ValueError):
        return None
