"""One round of a study: train on the set, evaluate it and the baselines, search, filter."""

from __future__ import annotations

import time
from collections.abc import Callable

from qsearch.errors import QsearchError
from qsearch.monitoring.events import EventKind
from qsearch.spec.stopping import round_shares
from qsearch.storage.paths import LOG
from qsearch.storage.round_state import write_round
from qsearch.study.candidates import find_candidates
from qsearch.study.filtering import finished_round
from qsearch.study.full_precision import full_precision
from qsearch.study.proxy_scores import round_scores
from qsearch.study.reference import prepare_reference
from qsearch.study.results import save_record
from qsearch.study.running_study import RunningStudy
from qsearch.study.training import train_round
from qsearch.study.trial_evaluation import (
    evaluate_trials,
    first_reason,
    retry_failed,
)


def run_round(study: RunningStudy, should_stop: Callable[[], bool]) -> None:
    """Run the first round that is not finished, or the rest of it.

    When time is up, the round is finished with what it has if all of its set is evaluated;
    otherwise it is left for a later session. If every evaluation failed, or more than the study
    tolerates, this is a QsearchError.
    """
    round, trials = study.round, study.trials
    training_set, first = study.training_set(round)
    failed_before = {number for number, (when, _) in trials.failures().items() if when < round}
    baselines = set(study.baselines) - failed_before - set(training_set)
    members = (*training_set, *sorted(baselines))
    of_set, of_search = round_shares(study.spec.search, trials.count_before(round), len(members))
    planned, to_evaluate = of_set + of_search, members[:of_set]
    retry_failed(study, round, planned, to_evaluate)
    study.emit(EventKind.ROUND_STARTED, round, training_set=len(training_set))
    correlation = study.correlation  # Measured before training takes its memory.

    report = train_round(study, round, training_set)
    is_unchanged = round > 1 and not report.steps
    prepare_reference(study)
    unquantized = full_precision(study, round, is_unchanged, should_stop)
    scores = round_scores(study, round, training_set, is_unchanged)
    study.searcher.use_scores(scores, correlation, study.examples)

    evaluate_trials(
        study,
        to_evaluate,
        EventKind.EVALUATING_THE_SET,
        should_stop,
        planned,
        is_unchanged=is_unchanged,
    )
    save_record(study)
    if trials.without_result(to_evaluate, round):
        return

    start = time.monotonic()
    candidates = find_candidates(study, to_evaluate, first, of_search, should_stop)
    search_seconds = time.monotonic() - start
    evaluate_trials(study, candidates, EventKind.EVALUATING_CANDIDATES, should_stop, planned)
    study.emit(EventKind.FINISHING_ROUND, round)
    if not trials.evaluated_in(round):
        raise QsearchError(
            f"round {round}: every evaluation failed, first with: {first_reason(study, round)};"
            f" all reasons are in {study.directory / LOG}; the same command tries again"
        )

    state = finished_round(study, training_set, report, unquantized, search_seconds)
    # An archive rebuilds a finished round from the record.
    save_record(study)
    write_round(study.directory, state)
    study.rounds.append(state)
    study.emit(
        EventKind.ROUND_FINISHED,
        round,
        hypervolume=state.record.hypervolume,
        next_set=len(state.next_set),
    )
    save_record(study)
