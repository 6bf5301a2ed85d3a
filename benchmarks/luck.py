"""How much of a difference between two losses can be luck with an objective's few examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.objectives import Objective
from qsearch.features import Features, score_features
from qsearch.space import Floats, Integers
from qsearch.surrogate import fit_surrogate


@dataclass(frozen=True)
class Luck:
    """The luck of an objective's losses, as the surrogate models it.

    Args:
        features: What is known of choices.
        variance: Variance of luck at a proxy of 1, nats².
    """

    features: Features
    variance: float

    def deviation(self, first: Integers, second: Integers) -> Floats:
        """Return the standard deviation of the luck in differences of losses (n), nats.

        Args:
            first: Choice indices (n × groups).
            second: Those that they are compared with (n × groups).
        """
        kernel = self.features.error_kernel
        pairs = torch.from_numpy(np.stack([first, second], axis=1))
        covariance = kernel(pairs, pairs)
        spread = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
        result: Floats = (self.variance * spread.clamp_min(0)).sqrt().numpy()
        return result


def luck_of(objective: Objective, index: Integers, loss: Floats) -> Luck:
    """Return the luck of an objective, its slope fitted to losses.

    Args:
        objective: The objective.
        index: Choice indices (n × groups).
        loss: Their losses (n), nats.
    """
    features = score_features(objective.space, objective.scores, objective.correlation)
    fitted = fit_surrogate(features, index, loss, objective.examples)
    slope = float(fitted.model.mean_module.slope.detach()) * fitted.scale
    return Luck(features, 2 * slope / objective.examples)
