"""What the surrogate knows of every choice of every group: scores, and how errors correlate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.space.space import Space
from qsearch.surrogate.additive_posterior import AdditiveKernel, Term, gathered

_CORRELATION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Features:
    """What the surrogate knows of every choice of every group.

    Args:
        proxy: φ, scaled so that uniformly drawn choices have a mean total of 1
            (groups × choices).
        correlation: Correlation of the errors of two choices (choices × choices).
    """

    proxy: Tensor
    correlation: Tensor

    def total(self, inputs: Tensor) -> Tensor:
        """Return the proxy z (…) of choice indices (… × groups)."""
        return gathered(self.proxy, inputs.long()).sum(dim=-1)

    @cached_property
    def error_kernel(self) -> AdditiveKernel:
        """Covariance Σ_g √φ_g · R · √φ_g, of mean variance 1: inner products of errors."""
        return AdditiveKernel((Term(self.proxy.sqrt(), self.correlation),))

    @cached_property
    def proxy_kernel(self) -> AdditiveKernel:
        """Covariance Σ_g φ_g · φ_g, of mean variance 1 at uniformly drawn choices.

        The prior of a misjudged sensitivity: it scales all of a group's scores alike.
        """
        scale = self.proxy.square().mean(dim=1).sum().clamp_min(1e-300)
        return AdditiveKernel((Term(self.proxy / scale.sqrt(), None),))


def score_features(space: Space, scores: Floats, correlation: Floats | None = None) -> Features:
    """Return features from proxy scores.

    Args:
        space: The space.
        scores: Predicted rise of the loss, up to a common factor (groups × choices); not
            negative.
        correlation: Correlation of the errors of two choices (choices × choices), as from
            :func:`~qsearch.surrogate.error_correlation.error_correlation`; without it, the
            effects of different choices on a group's weights count as unrelated.

    Raises:
        InputError: If a shape is wrong, a score is negative or not finite, or the correlation is
            no correlation matrix.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected:
        raise InputError(f"scores have shape {scores.shape}, expected {expected}")
    if not np.isfinite(scores).all() or scores.min() < 0:
        raise InputError("scores must be finite and not negative")
    if correlation is None:
        correlation = np.eye(space.choices.size)
    require_correlation(correlation, space.choices.size)
    return Features(
        proxy=torch.from_numpy(scores / max(float(scores.mean(axis=1).sum()), 1e-300)),
        correlation=torch.from_numpy((correlation + correlation.T) / 2),
    )


def require_correlation(correlation: Floats, choices: int) -> None:
    """Refuse what is no correlation matrix.

    Args:
        correlation: Correlation of the errors of two choices (choices × choices).
        choices: Number of choices.

    Raises:
        InputError: If the shape is wrong, or the matrix is not symmetric and positive semidefinite
            with ones on its diagonal.
    """
    if correlation.shape != (choices, choices):
        raise InputError(
            f"the correlation has shape {correlation.shape}, expected {(choices, choices)}"
        )
    if not np.isfinite(correlation).all() or not (
        np.abs(np.diag(correlation) - 1).max() <= _CORRELATION_TOLERANCE
        and np.abs(correlation - correlation.T).max() <= _CORRELATION_TOLERANCE
        and np.linalg.eigvalsh(correlation).min() >= -_CORRELATION_TOLERANCE
    ):
        raise InputError(
            "the correlation must be symmetric and positive semidefinite, with ones on its diagonal"
        )
