"""One round of a study: train on the set, evaluate it, search, evaluate, filter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import pandas as pd
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus
from ax.storage.sqa_store.db import NAME_OR_TYPE_FIELD_LENGTH

from qsearch._arrays import Booleans
from qsearch.errors import QsearchError
from qsearch.execution.executor import Failure
from qsearch.experiment.transactions import one_transaction
from qsearch.experiment.trial_table import (
    FAILED_REASON,
    FAILED_ROUND,
    ax_data,
    evaluated_in,
    selection_front,
)
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsExampleCount
from qsearch.search.pareto import normalised_hypervolume, reference_point
from qsearch.spec.stopping import round_shares
from qsearch.storage.paths import LOG
from qsearch.storage.round_state import RoundState, predicted_losses, write_round
from qsearch.storage.study_record import RoundRecord
from qsearch.study.candidates import delete_candidates, find_candidates
from qsearch.study.context import Study
from qsearch.study.evaluating import evaluations
from qsearch.study.full_precision import full_precision
from qsearch.study.recording import save_record, saving_now_and_then, training_set_of, trial_rows
from qsearch.study.scoring import round_scores
from qsearch.study.training import train_round


def run_round(study: Study, round: int, should_stop: Callable[[], bool]) -> None:
    """Run one round, or the rest of it.

    When time is up, the round is finished with what it has if all of its set is evaluated;
    otherwise it is left for a later session.

    Args:
        study: The open study.
        round: The first round that is not finished.
        should_stop: Whether the study shall evaluate and search no more.

    Raises:
        QsearchError: If every evaluation of the round failed, or more than the study tolerates.
    """
    training_set, first = training_set_of(study, round)
    used = evaluations_before(study, round)
    of_set, of_search = round_shares(study.spec.search, used, len(training_set))
    planned = of_set + of_search
    to_evaluate = training_set[:of_set]
    _retry_failed(study, round, planned, to_evaluate)
    study.emit(EventKind.ROUND_STARTED, round, training_set=len(training_set))
    correlation = study.correlation  # Measured before training takes its memory.
    report = train_round(study, round, training_set)
    unquantized = full_precision(study, round, should_stop)
    configurations = [study.configuration(number) for number in training_set]
    scores = round_scores(study, round, configurations)
    study.node.use_scores(scores, correlation, _examples(study))
    _evaluate(study, round, to_evaluate, EventKind.EVALUATING_THE_SET, should_stop, planned)
    save_record(study)
    if _without_result(study, round, to_evaluate):
        return
    search_start = time.monotonic()
    candidates = find_candidates(study, round, training_set, first, of_search, should_stop)
    search_seconds = time.monotonic() - search_start
    _evaluate(study, round, candidates, EventKind.EVALUATING_CANDIDATES, should_stop, planned)
    rows = _completed(study, round)
    if rows.empty:
        raise QsearchError(
            f"round {round}: every evaluation failed, first with: {_first_reason(study, round)};"
            f" all reasons are in {study.directory / LOG}; the same command tries again"
        )
    fit_start = time.monotonic()
    expected = _estimated_losses(study, rows["trial"].tolist())
    search_seconds += time.monotonic() - fit_start
    if expected:
        rows = rows.assign(estimated_loss=[expected[number][0] for number in rows["trial"]])
    next_set = tuple(rows.loc[_kept(study, rows), "trial"].tolist())
    of_first = rows if round == 1 else _completed(study, 1)
    # The reference point is fixed by round 1, so that rounds compare.
    reference = reference_point(of_first["loss"].to_numpy(), study.spec.search.average_bits)
    record = RoundRecord(
        round=round,
        training_set=training_set,
        hypervolume=normalised_hypervolume(
            rows[["loss", "average_bits"]].to_numpy(),
            reference,
            (0.0, study.components.space.average_bits_range[0]),
        ),
        train_seconds=report.seconds,
        evaluate_seconds=float(rows["seconds"].sum()),
        search_seconds=search_seconds,
        train_losses=report.losses,
        full_precision=unquantized,
    )
    predicted = predicted_losses(study.directory, round)
    save_record(study)  # First: the table has all results of a finished round, for archives.
    write_round(
        study.directory,
        RoundState(record, next_set, _ever_evaluated(study), expected, predicted),
    )
    study.emit(
        EventKind.ROUND_FINISHED, round, hypervolume=record.hypervolume, next_set=len(next_set)
    )
    save_record(study)


def _kept(study: Study, rows: pd.DataFrame) -> Booleans:
    """Return which completed rows of a round are the next set."""
    keep = study.spec.search.keep
    if keep == "all":
        return np.ones(len(rows), dtype=np.bool_)
    return selection_front(rows, study.edges if keep == "segments" else study.edges[[0, -1]])


def _examples(study: Study) -> int | None:
    """Return the number of validation examples, or None if sampling noise is not modelled."""
    task = study.components.task
    if study.spec.search.target == "examples" or not isinstance(task, SupportsExampleCount):
        return None
    return task.examples("validation")


def evaluations_before(study: Study, round: int) -> int:
    """Return how many evaluations the rounds before one have made, failures included."""
    return int((trial_rows(study)["round"] < round).sum())


def _ever_evaluated(study: Study) -> int:
    """Return the number of trials before the first without a result in any round.

    A round that was cut short may leave such trials; the next one takes them as candidates.
    """
    trials = study.client._experiment.trials
    running = (n for n in sorted(trials) if trials[n].status == TrialStatus.RUNNING)
    return next(running, len(trials))


def _failed_in(study: Study, round: int) -> list[Trial]:
    trials = study.client._experiment.trials
    return [
        trials[number]
        for number in sorted(trials)
        if trials[number].status == TrialStatus.FAILED
        and trials[number].run_metadata.get(FAILED_ROUND) == round
    ]


def _first_reason(study: Study, round: int) -> str:
    failed = _failed_in(study, round)
    return str(failed[0].run_metadata[FAILED_REASON]) if failed else "no reason given"


def _require_rate(study: Study, round: int, planned: int) -> None:
    """Stop the study once more of a round's evaluations have failed than it tolerates."""
    failures, failed = study.spec.failures, len(_failed_in(study, round))
    if not failures.tolerates(failed, planned):
        raise QsearchError(
            f"round {round}: {failed} of {planned} evaluations failed, more than failures.rate"
            f" {failures.rate:g} allows, first with: {_first_reason(study, round)}; all reasons are"
            f" in {study.directory / LOG}; the same command tries these again"
        )


def _retry_failed(study: Study, round: int, planned: int, to_evaluate: Sequence[int]) -> None:
    """Forget the failures of an unfinished round that ended the study.

    Such a round has a common cause, like a full device, that may be gone. Where something else
    ended the study, failures are kept, as if it had gone on.
    """
    failed = _failed_in(study, round)
    experiment = study.client._experiment
    some = bool(evaluated_in(experiment, round))
    all_failed = not some and not _without_result(study, round, to_evaluate)
    if not failed or (not all_failed and study.spec.failures.tolerates(len(failed), planned)):
        return
    for trial in failed:
        del trial._run_metadata[FAILED_ROUND], trial._run_metadata[FAILED_REASON]
        if any(trial.index in evaluated_in(experiment, earlier) for earlier in range(1, round)):
            trial.mark_completed(unsafe=True)
        else:
            trial.mark_running(no_runner_required=True, unsafe=True)
    if not some:
        # Without a single loss nothing was searched; the retried round shall search.
        delete_candidates(study.directory, round)
    with one_transaction():
        study.client._save_or_update_trials_in_db_if_possible(experiment=experiment, trials=failed)
    study.emit(EventKind.RETRYING, round, trials=[trial.index for trial in failed])


def _without_result(study: Study, round: int, numbers: Sequence[int]) -> list[int]:
    """Return those of the trials that this round has not evaluated, nor any round failed."""
    experiment = study.client._experiment
    done = evaluated_in(experiment, round)
    return [
        number
        for number in numbers
        if number not in done and experiment.trials[number].status != TrialStatus.FAILED
    ]


def _evaluate(
    study: Study,
    round: int,
    numbers: Sequence[int],
    phase: EventKind,
    should_stop: Callable[[], bool],
    planned: int,
) -> None:
    """Evaluate trials that have no result in this round."""
    experiment = study.client._experiment
    waiting = _without_result(study, round, numbers)
    for number in set(numbers).difference(waiting):
        if experiment.trials[number].status == TrialStatus.RUNNING:
            study.client.complete_trial(number)  # Killed between data and completion.
    configurations = [study.configuration(number) for number in waiting]
    space = study.components.space
    study.emit(phase, round, total=len(waiting))
    found = evaluations(study, round, configurations, waiting, should_stop=should_stop)
    keep_record = saving_now_and_then(study)
    with closing(found) as results:
        for done, (position, result) in enumerate(results, start=1):
            number = waiting[position]
            trial = experiment.trials[number]
            if isinstance(result, Failure):
                _save_failure(study, round, trial, result.reason)
                study.emit(EventKind.FAILED, round, trial=number, reason=result.reason)
                _require_rate(study, round, planned)
                continue
            bits = float(space.average_bits(space.from_parameters(trial.arm.parameters)))
            data = ax_data(result, bits, study.metric)
            with one_transaction():
                study.client.attach_data(number, raw_data=data, progression=round)
                if trial.status == TrialStatus.RUNNING:
                    study.client.complete_trial(number)
            study.emit(
                EventKind.EVALUATED,
                round,
                trial=number,
                average_bits=bits,
                loss=result.loss,
                metric=result.metric,
                seconds=result.seconds,
                done=done,
                total=len(waiting),
            )
            keep_record()


def _save_failure(study: Study, round: int, trial: Trial, reason: str) -> None:
    trial.update_run_metadata({FAILED_ROUND: round, FAILED_REASON: reason})
    # Ax refuses to fail a trial that completed in an earlier round unless told so.
    trial.mark_failed(reason=reason[:NAME_OR_TYPE_FIELD_LENGTH], unsafe=True)
    with one_transaction():
        study.client._save_or_update_trial_in_db_if_possible(
            experiment=study.client._experiment, trial=trial
        )


def _completed(study: Study, round: int) -> pd.DataFrame:
    """Return the rows of the round's completed trials."""
    table = trial_rows(study)
    return table[(table["round"] == round) & (table["status"] == "completed")]


def _estimated_losses(study: Study, members: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Return estimated loss and its standard deviation by trial, if sampling noise is modelled."""
    if _examples(study) is None or len(members) < 2:  # A surrogate needs two losses.
        return {}
    experiment, space = study.client._experiment, study.components.space
    study.node.update_generator_state(experiment, experiment.lookup_data())
    rows = [space.from_parameters(experiment.trials[number].arm.parameters) for number in members]
    mean, std = study.node.estimated_loss(np.array(rows, dtype=np.int64))
    return dict(zip(members, zip(mean.tolist(), std.tolist(), strict=True), strict=True))
