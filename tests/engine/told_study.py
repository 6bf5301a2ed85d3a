"""A study that is told and not run: its events at known times, so that its end is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qsearch.spec.search_spec import SearchSpec, StopSpec

START = 1.8e9
"""When it begins, in seconds since the epoch."""


@dataclass(frozen=True)
class ToldStudy:
    """How long what takes, in seconds; every set has the same size.

    Args:
        members: Configurations of each set.
        first_training: Training of the first round; the others take ``training``.
        steps: Steps of a training, told as progress.
        workers: Evaluations that run at once and end together.
        limit: Most evaluations of the study.
    """

    rounds: int = 4
    members: int = 6
    candidates: int = 3
    first_training: float = 50.0
    training: float = 50.0
    steps: int = 5
    sensitivity: float = 4.0
    evaluation: float = 10.0
    workers: int = 1
    search: float = 7.0
    finishing: float = 2.0
    limit: int | None = None

    @property
    def spec(self) -> SearchSpec:
        """Its limits."""
        return SearchSpec(
            rounds=self.rounds,
            initial=self.members,
            candidates=self.candidates,
            stop=StopSpec(evaluations=self.limit),
        )

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield lines as those of the log and of the file of progress, the last one its end."""
        self_time = START
        trial = 0
        used = 0

        def line(kind: str, round: int, **fields: Any) -> dict[str, Any]:
            time = datetime.fromtimestamp(self_time, UTC).isoformat()
            return {"time": time, "event": kind, "round": round, **fields}

        yield line("started", 1, rounds=self.rounds)
        for round in range(1, self.rounds + 1):
            left = 10**6 if self.limit is None else self.limit - used
            if left < 2:
                break
            of_set = min(self.members, left)
            of_search = min(self.candidates, left - of_set)
            yield line("round started", round, training_set=self.members)
            seconds = self.training if round > 1 else self.first_training
            for step in range(1, self.steps + 1):
                self_time += seconds / self.steps
                yield line("training", round, step=step, total=self.steps, loss=1.0)
            yield line("trained", round, steps=self.steps, seconds=seconds)
            yield line("measuring sensitivity", round)
            self_time += self.sensitivity
            yield line("measured sensitivity", round, seconds=self.sensitivity)
            for phase, count in (
                ("evaluating the set", of_set),
                ("evaluating candidates", of_search),
            ):
                if phase == "evaluating candidates":
                    for done in range(count):
                        yield line("searching", round, done=done, total=count)
                        self_time += self.search
                    yield line("searched", round, candidates=count)
                yield line(phase, round, total=count)
                for done in range(1, count + 1):
                    if (done - 1) % self.workers == 0:
                        self_time += self.evaluation
                    trial += 1
                    yield line("evaluated", round, trial=trial, done=done, total=count)
            used += of_set + of_search
            self_time += self.finishing
            yield line("round finished", round, hypervolume=0.5, next_set=self.members)
        yield line("finished", self.rounds, reason="search.rounds reached")


def time_of(line: dict[str, Any]) -> float:
    """Return a line's time in seconds since the epoch."""
    return datetime.fromisoformat(line["time"]).timestamp()


def delayed(lines: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Return the same lines, that much later."""
    return [
        {**line, "time": datetime.fromtimestamp(time_of(line) + seconds, UTC).isoformat()}
        for line in lines
    ]
