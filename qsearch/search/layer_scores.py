"""Scores of single layers: the predicted rise of the loss when a layer alone gets a choice."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.space.configuration_space import ConfigurationSpace


def error_scores(space: ConfigurationSpace, quantization_error: Floats) -> Floats:
    """Return each group's parameter-weighted share of the mean error (groups × choices).

    The quantization error is the relative squared error ‖W−W̃‖²/‖W‖² (layers × choices); each
    weight's error counts the same.
    """
    parameters = np.array([layer.parameters for layer in space.layers], dtype=np.float64)
    return weighted_scores(space, quantization_error, parameters / parameters.sum())


def weighted_scores(
    space: ConfigurationSpace, quantization_error: Floats, sensitivity: Floats
) -> Floats:
    """Return error × sensitivity, added over the layers of a group (groups × choices).

    The sensitivity is the rise of the loss per unit of relative squared error (layers).
    """
    _require("quantization error", quantization_error, (len(space.layers), space.choices.size))
    _require("sensitivity", sensitivity, (len(space.layers),))
    by_layer = quantization_error * sensitivity[:, None]
    return np.stack([by_layer[list(group.members)].sum(axis=0) for group in space.groups])


def _require(name: str, values: Floats, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise InputError(f"{name} has shape {values.shape}, expected {shape}")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"{name} must be finite and not negative")
