"""Scores of single layers: the predicted rise of the loss when a layer alone gets a choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from qsearch.errors import DamagedFileError
from qsearch.measurements import (
    QUANTIZATION_ERROR,
    layer_scores_name,
    measurement_path,
    read_measurement,
    sensitivity_name,
)
from qsearch.space import Floats, Space
from qsearch.state_files import to_standard_error


def split_among_layers(space: Space, scores: Floats, quantization_error: Floats) -> Floats:
    """Return what each layer adds to the score of its group (layers × choices).

    The layers of a tied group share its score in proportion to their errors, each weighted by its
    number of weights; so they add up to it. That is all that can be said where the group was
    measured as one.

    Args:
        space: The space.
        scores: Predicted rise of the loss (groups × choices).
        quantization_error: Relative squared error (layers × choices).
    """
    found = np.empty_like(quantization_error, dtype=np.float64)
    for group, of_group in zip(space.groups, scores, strict=True):
        members = list(group.members)
        weights = np.array([[space.layers[member].parameters] for member in members], dtype=float)
        errors = quantization_error[members] * weights
        total = errors.sum(axis=0)
        even = np.broadcast_to(weights / weights.sum(), errors.shape)
        found[members] = of_group * np.divide(errors, total, out=even.copy(), where=total > 0)
    return found


def read_layer_scores(
    directory: Path,
    round: int,
    shape: tuple[int, int],
    note: Callable[[str], None] = to_standard_error,
) -> Floats | None:
    """Return the predicted rise of the loss when a layer alone gets a choice (layers × choices).

    It is in nats, under the adapter of a round. Of a round that an earlier version of qsearch ran,
    it is the quantization error times the sensitivity, where both were saved.

    Args:
        directory: The study's directory.
        round: Index of the round.
        shape: Number of layers and of choices.
        note: Told of a file that cannot be used.

    Returns:
        None if neither was saved for these layers and choices, or it cannot be used.
    """
    try:
        found = _read(directory, layer_scores_name(round), shape)
        if found is not None:
            return found
        error = _read(directory, QUANTIZATION_ERROR, shape)
        sensitivity = _read(directory, sensitivity_name(round), shape[:1])
    except DamagedFileError as problem:
        note(f"{problem}; scores of layers are left out")
        return None
    if error is None or sensitivity is None:
        return None
    product: Floats = error * sensitivity[:, None]
    return product


def _read(directory: Path, name: str, shape: tuple[int, ...]) -> Floats | None:
    values = read_measurement(directory, name)
    if values is None or values.shape != shape:  # Of another form is of another study.
        return None
    if not np.isfinite(values).all():
        raise DamagedFileError(f"{measurement_path(directory, name)}: holds values not finite")
    return values
