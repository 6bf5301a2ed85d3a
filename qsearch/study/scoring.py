"""A round's proxy scores, measured under its adapter and saved."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qsearch._arrays import Floats
from qsearch.monitoring.events import EventKind
from qsearch.search.layer_scores import weighted_scores
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.paths import layer_scores_name, measurement_path, sensitivity_name
from qsearch.study.context import Study


def round_scores(study: Study, round: int, training_set: Sequence[Configuration]) -> Floats:
    """Return the predicted rise of the loss under the round's adapter (groups × choices).

    What an earlier session measured is read, not repeated.
    """
    space, error = study.components.space, study.quantization_error
    sensitivity = _sensitivity(study, round, training_set)
    _keep_layer_scores(study, round, error * sensitivity[:, None])
    return weighted_scores(space, error, sensitivity)


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
    study.emit(EventKind.MEASURING_SENSITIVITY, round)
    measured = study.components.trainer.sensitivity(training_set, round)
    write_measurement(study.directory, name, measured)
    study.emit(EventKind.MEASURED_SENSITIVITY, round, seconds=time.monotonic() - start)
    return measured
