"""How much of a difference between two losses can be sampling noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.objectives import Objective
from qsearch._arrays import Floats, Integers
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate


def fitted_to(objective: Objective, index: Integers, loss: Floats) -> Surrogate:
    """Return the surrogate of an objective, sampling noise told apart.

    Args:
        objective: The objective.
        index: Choice indices (n × groups).
        loss: Their losses (n), nats.
    """
    features = score_features(objective.space, objective.scores, objective.correlation)
    return fit_surrogate(features, index, loss, objective.examples)


def sampling_noise_std(
    surrogate: Surrogate, examples: int, first: Integers, second: Integers
) -> Floats:
    """Return the standard deviation of the sampling noise in differences of losses (n), nats.

    Args:
        surrogate: Says how much the loss rises with the proxy.
        examples: How many examples the losses are means over.
        first: Choice indices (n × groups).
        second: Those that they are compared with (n × groups).
    """
    covariance = _covariance(surrogate, examples, np.stack([first, second], axis=1))
    spread = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
    result: Floats = spread.clamp_min(0).sqrt().numpy()
    return result


def _covariance(surrogate: Surrogate, examples: int, index: Integers) -> Tensor:
    """Return covariances (n × 2 × 2) of the sampling noise of pairs (n × 2 × groups), nats²."""
    points, outcome = torch.from_numpy(index), surrogate.outcome
    slope = float(surrogate.model.mean_module.slope.detach())
    kernel = surrogate.features.error_kernel.scaled(2 * slope / (examples * outcome.unit))
    mean = surrogate.predict(index.reshape(-1, index.shape[-1]))[0].view(index.shape[:-1])
    above = torch.ones_like(mean) if outcome.floor is None else mean - outcome.floor
    nats = above * outcome.scale
    return kernel(points, points) * nats[..., :, None] * nats[..., None, :]
