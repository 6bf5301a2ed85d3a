"""A study's evaluations: by its executor, told as they come, until time is up."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from qsearch.execution.executor import ExecutorEvent, Result
from qsearch.space.configuration import Configuration
from qsearch.study.context import Study


def evaluations(
    study: Study,
    round: int,
    configurations: Sequence[Configuration],
    trials: Sequence[int] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Result]]:
    """Yield positions of configurations with their results, in the order in which these are known.

    A caller that may stop early closes the generator: workers then stop, too.

    Args:
        study: The open study; its trainer has the round's adapter.
        round: Index of the round.
        configurations: What to evaluate.
        trials: Numbers of their trials, for what is told.
        should_stop: Asked before each result; once it says so, nothing more is evaluated.
    """
    with closing(study.executor.evaluate(configurations)) as outcomes:
        while not should_stop():
            found = next(outcomes, None)
            if found is None:
                return
            if isinstance(found, ExecutorEvent):
                if found.kind is None:
                    continue  # Only to ask whether time is up.
                fields = dict(found.fields)
                if trials is not None and found.position is not None:
                    fields["trial"] = trials[found.position]
                study.emit(found.kind, round, **fields)
            else:
                yield found
