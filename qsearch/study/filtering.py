"""The end of a round: its losses estimated, its next set filtered by segments, its record."""

from __future__ import annotations

import time

import numpy as np

from qsearch._arrays import Booleans, Floats
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.search.pareto import (
    ideal_point,
    normalised_hypervolume,
    reference_point,
    segmented_front,
)
from qsearch.storage.round_state import RoundState, predicted_losses
from qsearch.storage.study_record import RoundRecord
from qsearch.study.candidates import fit_searcher
from qsearch.study.running_study import RunningStudy


def finished_round(
    study: RunningStudy,
    training_set: tuple[int, ...],
    report: TrainReport,
    unquantized: Evaluation | None,
    search_seconds: float,
) -> RoundState:
    """Return what the current round comes to, whose search has taken some seconds so far."""
    round, trials = study.round, study.trials
    evaluated = trials.evaluated_in(round)
    numbers = np.array(list(evaluated))
    objective = study.spec.search.objective
    loss = np.array([evaluation.value_of(objective) for evaluation in evaluated.values()])
    bits = np.array([trials.average_bits(number) for number in evaluated])
    start = time.monotonic()
    estimated = _estimated_losses(study, list(evaluated))
    search_seconds += time.monotonic() - start
    selection_loss = np.array([mean for mean, _ in estimated.values()]) if estimated else loss
    # The reference point is fixed by round 1, so that rounds compare.
    first = [evaluation.value_of(objective) for evaluation in trials.evaluated_in(1).values()]
    reference = reference_point(np.array(first), study.size.bits)
    record = RoundRecord(
        round=round,
        training_set=training_set,
        hypervolume=normalised_hypervolume(
            np.column_stack([loss, bits]),
            reference,
            ideal_point(reference, study.components.space.average_bits_range[0]),
        ),
        train_seconds=report.seconds,
        evaluate_seconds=float(sum(evaluation.seconds for evaluation in evaluated.values())),
        search_seconds=search_seconds,
        train_losses=report.losses,
        full_precision=unquantized,
    )
    return RoundState(
        record,
        tuple(numbers[_next_set(study, selection_loss, bits)].tolist()),
        # A round that was cut short may leave trials without a result in any round; the next one
        # takes them as candidates.
        next(iter(trials.running()), len(trials)),
        estimated,
        predicted_losses(study.directory, round),
    )


def _next_set(study: RunningStudy, selection_loss: Floats, bits: Floats) -> Booleans:
    """Return which trials are the next set (trials)."""
    keep = study.spec.search.keep
    if keep == "all":
        return np.ones(len(bits), dtype=np.bool_)
    edges = study.edges if keep == "segments" else study.edges[[0, -1]]
    return segmented_front(np.column_stack([selection_loss, bits]), edges)


def _estimated_losses(study: RunningStudy, numbers: list[int]) -> dict[int, tuple[float, float]]:
    """Return estimated loss and its standard deviation by trial, if sampling noise is modelled."""
    if study.examples is None or not fit_searcher(study):
        return {}
    mean, std = study.searcher.estimated_loss(study.trials.indices(numbers))
    return dict(zip(numbers, zip(mean.tolist(), std.tolist(), strict=True), strict=True))
