"""Second moments of inputs, as layers have them."""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.testing.samples import normal_weight


def correlated_moment(features: int, seed: int = 0, tokens: int | None = None) -> Tensor:
    """Return E[x·xᵀ] of inputs with a few strong directions."""
    directions = normal_weight(features, features, std=1.0, seed=seed + 1)
    mixing = directions * torch.logspace(0.5, -1, features)
    inputs = normal_weight(tokens or 4 * features, features, std=1.0, seed=seed) @ mixing.T
    return inputs.T @ inputs / len(inputs)
