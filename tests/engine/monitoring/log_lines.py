"""A clock and lines of a log, for tests of what a study says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from qsearch.monitoring.events import EventKind


@dataclass
class Clock:
    """A clock that stands still unless it is moved on."""

    now: float = 1.8e9

    def __call__(self) -> float:
        return self.now


def at(second: float, event: str, round: int = 1, **fields: Any) -> dict[str, Any]:
    minute, rest = divmod(second, 60)
    time = f"2026-01-01T00:{int(minute):02}:{rest:06.3f}+00:00"
    return {"time": time, "event": event, "round": round, **fields}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
fields = ("event", "time", "round", "trial", "trials", "reason", "total", "done", "step")
odd_lines = st.builds(
    lambda base, odd: base | odd,
    st.builds(at, st.integers(0, 3000), st.sampled_from(EventKind), st.integers(0, 3)),
    st.dictionaries(st.sampled_from(fields), json_values),
)
