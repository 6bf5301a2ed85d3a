"""What the surrogate knows of every choice of every group: scores, and how errors correlate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.surrogate.additive_posterior import AdditiveKernel, Term, gather

_CORRELATION_TOLERANCE = 1e-4
_MIN_SCALE = 1e-300


@dataclass(frozen=True)
class Features:
    """The scores φ, scaled so that uniformly drawn choices have a mean total of 1.

    They are the proxy (groups × choices); the correlation is of the errors of two choices
    (choices × choices).
    """

    proxy: Tensor
    correlation: Tensor

    def total(self, inputs: Tensor) -> Tensor:
        """Return the proxy z (…) of choice indices (… × groups)."""
        return gather(self.proxy, inputs.long()).sum(dim=-1)

    @cached_property
    def error_kernel(self) -> AdditiveKernel:
        """Covariance Σ_g √φ_g · R · √φ_g, of mean variance 1: inner products of errors."""
        return AdditiveKernel((Term(self.proxy.sqrt(), self.correlation),))

    @cached_property
    def proxy_kernel(self) -> AdditiveKernel:
        """Covariance Σ_g φ_g · φ_g, of mean variance 1 at uniformly drawn choices.

        The prior of a misjudged sensitivity: it scales all of a group's scores alike.
        """
        scale = self.proxy.square().mean(dim=1).sum().clamp_min(_MIN_SCALE)
        return AdditiveKernel((Term(self.proxy / scale.sqrt(), None),))


def score_features(
    space: ConfigurationSpace, scores: Floats, correlation: Floats | None = None
) -> Features:
    """Return features from predicted rises of the loss, up to a common factor (groups × choices).

    Scores are not negative. The correlation is that of
    :func:`~qsearch.surrogate.error_correlation.error_correlation`; without it, the effects of
    different choices on a group's weights count as unrelated.
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
        proxy=torch.from_numpy(scores / max(float(scores.mean(axis=1).sum()), _MIN_SCALE)),
        correlation=torch.from_numpy((correlation + correlation.T) / 2),
    )


def require_correlation(correlation: Floats, choices: int) -> None:
    """Refuse what is not a correlation matrix (choices × choices)."""
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
