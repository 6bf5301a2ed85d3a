"""A round's trials evaluated: results saved as they come, failures counted and retried."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

from qsearch.errors import QsearchError
from qsearch.execution.executor import ExecutorEvent, Failure, Result
from qsearch.monitoring.events import EventKind
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.example_scores import (
    read_example_scores,
    trial_name,
    write_example_scores,
)
from qsearch.storage.paths import LOG, candidates_path, examples_path
from qsearch.study.results import PeriodicRecord
from qsearch.study.running_study import RunningStudy


def evaluate_trials(
    study: RunningStudy,
    numbers: Sequence[int],
    phase: EventKind,
    should_stop: Callable[[], bool],
    planned: int,
    is_unchanged: bool = False,
) -> None:
    """Evaluate those trials that have no result in the current round, announced by an event.

    Before each result it is asked whether to stop; then nothing more is evaluated. If more of the
    round's planned evaluations failed than the study tolerates, this is a QsearchError. Where a
    round is unchanged, since it trained nothing, it takes over the results of the one before.
    """
    round, trials = study.round, study.trials
    waiting = trials.without_result(numbers, round)
    study.emit(phase, round, total=len(waiting))
    if is_unchanged:
        _carry_results(study, waiting)
    left = trials.without_result(waiting, round)
    record = PeriodicRecord(study)
    with closing(evaluated_trials(study, left, should_stop)) as results:
        for done, (number, result) in enumerate(results, start=len(waiting) - len(left) + 1):
            save_result(study, number, result, done, len(waiting))
            if isinstance(result, Failure):
                _require_rate(study, round, planned)
            else:
                record.save_if_due()


def _carry_results(study: RunningStudy, waiting: Sequence[int]) -> None:
    """Save what trials scored in the round before for the current one."""
    round = study.round
    before = study.trials.evaluated_in(round - 1)
    known = [number for number in waiting if number in before]
    for done, number in enumerate(known, start=1):
        examples = None
        if examples_path(study.directory, round - 1, trial_name(number)).is_file():
            examples = read_example_scores(study.directory, round - 1, number)
        result = replace(before[number], seconds=0.0, examples=examples)
        save_result(study, number, result, done, len(waiting))


def save_result(study: RunningStudy, number: int, result: Result, done: int, total: int) -> None:
    """Save what a trial came to in the current round, and emit it with how many are done."""
    round, trials = study.round, study.trials
    objective = study.spec.search.objective
    if isinstance(result, Evaluation) and objective not in ("loss", *result.metrics):
        result = Failure(f"the trainer gave no {objective}, which search.objective asks for")
    if isinstance(result, Failure):
        trials.save_failure(number, round, result.reason)
        study.emit(EventKind.FAILED, round, trial=number, reason=result.reason)
        return
    path = examples_path(study.directory, round, trial_name(number))
    write_example_scores(path, result.examples)  # First: no result is without them.
    trials.save_result(number, round, result)
    study.emit(
        EventKind.EVALUATED,
        round,
        trial=number,
        average_bits=trials.average_bits(number),
        loss=result.loss,
        metrics={name: metric.value for name, metric in result.metrics.items()},
        seconds=result.seconds,
        done=done,
        total=total,
    )


def evaluated_trials(
    study: RunningStudy, numbers: Sequence[int], should_stop: Callable[[], bool]
) -> Generator[tuple[int, Result]]:
    """Yield trials with their results, in the order in which these are known.

    Closing the generator stops the workers, too.
    """
    configurations = [study.trials.configuration(number) for number in numbers]
    with closing(study.executor.evaluate(configurations)) as outcomes:
        while not should_stop():
            outcome = next(outcomes, None)
            if outcome is None:
                return
            if not isinstance(outcome, ExecutorEvent):
                yield numbers[outcome[0]], outcome[1]
            elif outcome.kind is not None:  # Else only to ask whether time is up.
                fields = dict(outcome.fields)
                if outcome.position is not None:
                    fields["trial"] = numbers[outcome.position]
                study.emit(outcome.kind, study.round, **fields)


def first_reason(study: RunningStudy, round: int) -> str:
    """Return why the round's first failed trial failed."""
    return next(iter(study.trials.failed_in(round).values()), "no reason given")


def retry_failed(study: RunningStudy, round: int, planned: int, to_evaluate: Sequence[int]) -> None:
    """Take back the failures of an unfinished round that ended the study.

    Such a round has a common cause, like a full device, that may be gone. Where something else
    ended the study, failures are kept, as if it had never stopped.
    """
    trials = study.trials
    failed = trials.failed_in(round)
    evaluated = trials.evaluated_in(round)
    all_failed = not evaluated and not trials.without_result(to_evaluate, round)
    if not failed or (not all_failed and study.spec.failures.tolerates(len(failed), planned)):
        return
    if not evaluated:
        # Without a single loss nothing was searched; the retried round searches.
        candidates_path(study.directory, round).unlink(missing_ok=True)
    study.emit(EventKind.RETRYING, round, trials=trials.retry(round))


def _require_rate(study: RunningStudy, round: int, planned: int) -> None:
    """Stop the study once more of a round's evaluations have failed than it tolerates."""
    failures, failed = study.spec.failures, len(study.trials.failed_in(round))
    if not failures.tolerates(failed, planned):
        raise QsearchError(
            f"round {round}: {failed} of {planned} evaluations failed, more than failures.rate"
            f" {failures.rate:g} allows, first with: {first_reason(study, round)}; all reasons are"
            f" in {study.directory / LOG}; the same command tries these again"
        )
