"""A round's proxy scores, measured under its adapter and saved."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qsearch._arrays import Floats
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsFixedSensitivity
from qsearch.search.layer_scores import error_scores, weighted_scores
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.paths import layer_scores_name, measurement_path, sensitivity_name
from qsearch.study.running_study import RunningStudy


def first_scores(study: RunningStudy) -> Floats:
    """Return the scores (groups × choices) that the first set's allocations go by.

    What an adapter makes of an error is unknown before it is trained, so errors of all weights
    count the same. Fixed sensitivities are measured now, for round 1, too.
    """
    trainer = study.components.trainer
    if isinstance(trainer, SupportsFixedSensitivity) and trainer.sensitivity_is_fixed:
        return round_scores(study, 1, (), is_unchanged=False)
    return error_scores(study.components.space, study.quantization_error)


def round_scores(
    study: RunningStudy, round: int, training_set: Sequence[int], is_unchanged: bool
) -> Floats:
    """Return the predicted rise of the loss under the round's adapter (groups × choices).

    What an earlier session measured is read, not repeated, and so is what the round before
    measured, if the adapter is unchanged.
    """
    error = study.quantization_error
    sensitivity = _sensitivity(study, round, training_set, is_unchanged)
    name = layer_scores_name(round)
    if not measurement_path(study.directory, name).is_file():  # For reports alone.
        write_measurement(study.directory, name, error * sensitivity[:, None])
    return weighted_scores(study.components.space, error, sensitivity)


def _sensitivity(
    study: RunningStudy, round: int, training_set: Sequence[int], is_unchanged: bool
) -> Floats:
    name = sensitivity_name(round)
    saved = read_measurement(study.directory, name)
    if saved is not None:
        return saved
    if is_unchanged:
        before = read_measurement(study.directory, sensitivity_name(round - 1))
        if before is not None:
            write_measurement(study.directory, name, before)
            return before
    configurations = [study.trials.configuration(number) for number in training_set]
    start = time.monotonic()
    study.emit(EventKind.MEASURING_SENSITIVITY, round)
    sensitivity = study.components.trainer.sensitivity(configurations, round)
    write_measurement(study.directory, name, sensitivity)
    study.emit(EventKind.MEASURED_SENSITIVITY, round, seconds=time.monotonic() - start)
    return sensitivity
