"""Times of calls that are made in turn, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def alternate(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    before: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each turn, all called in turn after one warm-up each.

    Args:
        calls: What is timed.
        repeats: Turns.
        before: Called before each call, untimed.
        clock: Returns seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if before is not None:
                before()
            started = clock()
            call()
            if turn:
                times[name].append(clock() - started)
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median seconds of each call."""
    return {name: statistics.median(values) for name, values in times.items()}


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over turns of one call's time over another's in the same turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
