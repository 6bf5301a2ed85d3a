"""A round's proxy scores, measured under its adapter and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import QsearchError
from qsearch.execution.executor import Failure
from qsearch.search.layer_scores import split_among_layers, weighted_scores
from qsearch.search.probing import probed_scores, probes
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import delete_measurement, read_measurement, write_measurement
from qsearch.storage.paths import layer_scores_name, measurement_path, sensitivity_name
from qsearch.study.context import Study
from qsearch.study.evaluating import evaluations

_PROBED_ABOVE = 1.0
"""Bits above the lower end of the searched interval that probed groups come near to: low enough for
a rise of the loss, not so low that the rise is all of its own kind."""


def round_scores(
    study: Study,
    round: int,
    training_set: Sequence[Configuration],
    should_stop: Callable[[], bool],
) -> Floats | None:
    """Return the predicted rise of the loss under the round's adapter (groups × choices).

    What an earlier session measured is read, not repeated.

    Args:
        study: The open study.
        round: Index of the round.
        training_set: The round's set.
        should_stop: Asked before each evaluation; then None is returned.

    Raises:
        QsearchError: If the sensitivity of no group could be measured.
    """
    space, error = study.components.space, study.quantization_error
    if study.spec.search.scores == "gradient":
        sensitivity = _sensitivity(study, round, training_set)
        _keep_layer_scores(study, round, error * sensitivity[:, None])
        return weighted_scores(space, error, sensitivity)
    probe = probes(space, error, study.spec.search.average_bits[0] + _PROBED_ABOVE)
    losses = _probe_losses(study, round, probe, should_stop)
    if losses is None:
        return None
    scores = probed_scores(space, error, probe, losses)
    _keep_layer_scores(study, round, split_among_layers(space, scores, error))
    return scores


def _keep_layer_scores(study: Study, round: int, scores: Floats) -> None:
    """Save the scores of layers (layers × choices), for reports alone."""
    name = layer_scores_name(round)
    if not measurement_path(study.directory, name).is_file():
        write_measurement(study.directory, name, scores)


def _sensitivity(study: Study, round: int, training_set: Sequence[Configuration]) -> Floats:
    name = sensitivity_name(round)
    saved = read_measurement(study.directory, name)
    if saved is not None:
        return saved
    start = time.monotonic()
    study.emit("measuring sensitivity", round)
    measured = study.components.trainer.sensitivity(training_set, round)
    write_measurement(study.directory, name, measured)
    study.emit("measured sensitivity", round, seconds=time.monotonic() - start)
    return measured


def _probe_losses(
    study: Study, round: int, probe: Integers, should_stop: Callable[[], bool]
) -> Floats | None:
    """Return the probes' losses (probes), ∞ where an evaluation failed; None if time was up.

    Each is saved at once, failures too: a study that goes on shall come to the same scores.
    """
    name = f"probes-{round}"
    saved = read_measurement(study.directory, name)
    losses = np.full(len(probe), np.nan) if saved is None else saved
    waiting = np.flatnonzero(np.isnan(losses))
    reasons = ["see the log"]
    if len(waiting):
        start = time.monotonic()
        study.emit("measuring sensitivity", round, total=len(waiting))
        configurations = [study.components.space.decode(probe[number]) for number in waiting]
        probed = evaluations(study, round, configurations, should_stop=should_stop)
        with closing(probed) as results:
            for position, result in results:
                number = waiting[position]
                losses[number] = np.inf if isinstance(result, Failure) else result.loss
                write_measurement(study.directory, name, losses)
                if isinstance(result, Failure):
                    reasons.append(result.reason)
                    study.emit("probe failed", round, probe=int(number), reason=result.reason)
        if np.isnan(losses).any():
            return None
        study.emit("measured sensitivity", round, seconds=time.monotonic() - start)
    if not np.isfinite(losses[0]) or not np.isfinite(losses[1:]).any():
        delete_measurement(study.directory, name)
        raise QsearchError(
            f"round {round}: sensitivities cannot be measured, since all probes failed, or the one"
            f" that others are compared with: {reasons[-1]}; the same command tries again"
        )
    return losses
