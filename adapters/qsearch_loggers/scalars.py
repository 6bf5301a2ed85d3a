"""A study's events as named values with steps, the same for every logger."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsearch.monitoring.events import Event, EventKind, event_line, event_of_line, read_events
from qsearch.storage.paths import LOG

_OF_EVALUATION = ("loss", "average_bits", "trial")


@dataclass(frozen=True)
class Scalar:
    """A named value at a step.

    Args:
        step: Training steps, results of evaluations, or rounds.
        time: When it was logged, in seconds since the epoch.
    """

    name: str
    step: int
    value: float
    time: float


class Scalars:
    """Turns events into scalars whose steps only rise, over all sessions of a study.

    * ``training/loss`` by training step, counted on from round to round
    * ``evaluation/loss``, ``…/average_bits``, ``…/trial`` and each metric by result, from 1
    * ``failures``, how many there are so far, by result as well
    * ``round/hypervolume`` and ``round/next_set`` by round

    Args:
        last: The last step that is logged already, by name. A resumed training repeats steps.
    """

    def __init__(self, last: Mapping[str, int]) -> None:
        self._last = dict(last)
        self._steps: dict[int, int] = {}
        self._results = self._failures = 0

    def catch_up(self, directory: Path) -> Iterator[Scalar]:
        """Yield what the log of earlier sessions holds and is not logged yet."""
        for line in read_events(directory / LOG):
            if event := event_of_line(line):
                yield from self._scalars(event, line)

    def of(self, event: Event) -> Iterator[Scalar]:
        """Yield the scalars of an event that happens now."""
        return self._scalars(event, event_line(event))

    def _scalars(self, event: Event, line: Mapping[str, Any]) -> Iterator[Scalar]:
        for name, step, value in self._values(event.kind, event.round, line):
            is_finite = isinstance(value, int | float) and math.isfinite(value)
            if is_finite and step > self._last.get(name, -1):
                self._last[name] = step
                yield Scalar(name, step, float(value), _seconds(line))

    def _values(
        self, kind: EventKind, round: int, line: Mapping[str, Any]
    ) -> Iterator[tuple[str, int, Any]]:
        if kind is EventKind.TRAINING:
            before = sum(steps for earlier, steps in self._steps.items() if earlier < round)
            yield "training/loss", before + line["step"], line["loss"]
        elif kind is EventKind.TRAINED:
            self._steps[round] = line["steps"]
        elif kind is EventKind.EVALUATED:
            self._results += 1
            for name in _OF_EVALUATION:
                yield f"evaluation/{name}", self._results, line.get(name)
            metrics = line.get("metrics")
            for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
                yield f"evaluation/{name}", self._results, value
        elif kind is EventKind.FAILED:
            self._results += 1
            self._failures += 1
            yield "failures", self._results, self._failures
        elif kind is EventKind.ROUND_FINISHED:
            yield "round/hypervolume", round, line.get("hypervolume")
            yield "round/next_set", round, line.get("next_set")


def _seconds(line: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(line.get("time"))).timestamp()
    except ValueError:
        return datetime.now(UTC).timestamp()
