"""Scores of single layers: the predicted rise of the loss when a layer alone gets a choice."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.space.space import Space


def error_scores(space: Space, quantization_error: Floats) -> Floats:
    """Return scores from quantization error alone: each weight's error counts the same.

    Args:
        space: The space.
        quantization_error: Relative squared error ‖W−W̃‖²/‖W‖² (layers × choices).

    Returns:
        Each group's parameter-weighted share of the mean error (groups × choices).

    Raises:
        InputError: If the errors cannot be used.
    """
    parameters = np.array([layer.parameters for layer in space.layers], dtype=np.float64)
    return weighted_scores(space, quantization_error, parameters / parameters.sum())


def weighted_scores(space: Space, quantization_error: Floats, sensitivity: Floats) -> Floats:
    """Return scores error × sensitivity, added over the layers of a group.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        sensitivity: Rise of the loss per unit of relative squared error (layers), not negative.

    Returns:
        Scores (groups × choices).

    Raises:
        InputError: If shapes are wrong, or a value is negative or not finite.
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
