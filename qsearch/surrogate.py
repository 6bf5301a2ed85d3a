"""A Gaussian process for the loss, on what is cheap to know of a configuration.

To first order, quantizing changes the loss by Σ_g ⟨γ_g, D_g⟩, with D_g the error of group g's
weights and γ_g a gradient that is not known. If γ_g may point anywhere, with a length that the
group's sensitivity tells, then two configurations covary by the inner products of their errors.
With φ_g the score of group g's choice (error × sensitivity), R the correlation of the errors of two
choices, and z = Σ φ_g the configuration's proxy, the model is

    loss(c) = a + s·z(c) + f(c) + noise,    s ≥ 0,
    cov(f(c), f(c')) = σ² Σ_g √φ_g(c_g) · R[c_g, c'_g] · √φ_g(c'_g),    var f(c) = σ² z(c).

The prior mean rises with the proxy: what is of second order. The kernel learns which groups the
proxy misjudges and which choices happen to suit a group. What the proxy calls harmless can hardly
be harmful, so the variance grows with it. Mean and kernel add over groups, so predictions are sums
of tables (:mod:`qsearch.tables`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gpytorch
import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.settings import validate_input_scaling
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space import Floats, Integers, Space
from qsearch.tables import AdditiveKernel, Tables, gathered, posterior_tables

_NOISE_PRIOR = (-1.0, 0.6)
"""Log-normal prior of the noise variance, as a share of the losses' variance.

A share of a third is what losses of random configurations have on SST-2; a tighter or smaller
prior made intervals from 20 losses too narrow.
"""

_SCALE_PRIOR = (0.0, 1.0)
"""Log-normal prior of σ², as a share of the losses' variance, where z is 1 on average."""

_CORRELATION_TOLERANCE = 1e-4

_INITIAL_NOISE = 0.1
"""Noise variance, as a share of the losses' variance, from which the fit starts."""


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
    def kernel(self) -> AdditiveKernel:
        """Covariance Σ_g √φ_g · R · √φ_g, of mean variance 1."""
        return AdditiveKernel(self.proxy.sqrt(), self.correlation)

    @cached_property
    def correlation_factor(self) -> Tensor:
        """The symmetric root of the correlation (choices × choices).

        Unlike a root by eigenvectors alone, it does not depend on their signs.
        """
        values, vectors = torch.linalg.eigh(self.correlation)
        result: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return result


def score_features(space: Space, scores: Floats, correlation: Floats | None = None) -> Features:
    """Return features from proxy scores.

    Args:
        space: The space.
        scores: Predicted rise of the loss, up to a common factor (groups × choices); not
            negative.
        correlation: Correlation of the errors of two choices (choices × choices), as from
            :func:`qsearch.correlation.error_correlation`; without it, the effects of different
            choices on a group's weights count as unrelated.

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


class ProxyMean(Mean):  # type: ignore[misc]  # gpytorch is untyped
    """Prior mean that rises with the proxy: a + s·z with s ≥ 0.

    Args:
        features: Where the proxy comes from.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self._features = features
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros(())))
        self.register_parameter("raw_slope", torch.nn.Parameter(torch.zeros(())))
        self.register_constraint("raw_slope", Positive())

    @property
    def slope(self) -> Tensor:
        """The slope s, not negative."""
        result: Tensor = self.raw_slope_constraint.transform(self.raw_slope)
        return result

    def forward(self, inputs: Tensor) -> Tensor:
        """Return prior means (…) of choice indices (… × groups)."""
        result: Tensor = self.constant + self.slope * self._features.total(inputs)
        return result


class ErrorKernel(Kernel):  # type: ignore[misc]  # gpytorch is untyped
    """Covariance by the inner products of quantization errors, Σ_g √φ_g · R · √φ_g.

    Args:
        features: Scores and correlation.
    """

    has_lengthscale = False

    def __init__(self, features: Features) -> None:
        super().__init__()
        self._sums = features.kernel
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **parameters: Any) -> Tensor:
        """Return covariances (… × n × m), or (… × n) on the diagonal, of choice indices.

        Args:
            x1: Choice indices (… × n × groups).
            x2: Choice indices (… × m × groups).
            diag: Whether only x1's covariance with the same row of x2 is wanted.
            parameters: What else GPyTorch gives; unused.
        """
        first, second = x1.long(), x2.long()
        if diag:
            one, two = gathered(self._sums.root, first), gathered(self._sums.root, second)
            return (one * self._sums.correlation[first, second] * two).sum(dim=-1)
        # Nothing here depends on a hyperparameter, and a fit asks for the same matrix each step.
        last = self._last
        if last and torch.equal(first, last[0]) and torch.equal(second, last[1]):
            return last[2]
        result = self._sums(first, second)
        self._last = (first, second, result)
        return result


@dataclass(frozen=True)
class Surrogate:
    """A fitted Gaussian process for the loss.

    Args:
        model: BoTorch model of the standardised loss; its inputs are choice indices.
        features: What it knows of choices.
        location: Mean of the losses it was fitted to.
        scale: Their standard deviation.
        tables: Its predictions as sums over groups, in standardised units.
    """

    model: SingleTaskGP
    features: Features
    location: float
    scale: float
    tables: Tables

    @property
    def noise(self) -> float:
        """Standard deviation of a loss around the noiseless one."""
        return float(self.tables.noise**0.5) * self.scale

    @property
    def mean_table(self) -> Floats:
        """Posterior mean that each choice of each group contributes (groups × choices), nats."""
        result: Floats = (self.tables.mean * self.scale).numpy()
        return result

    def predict(self, index: Integers) -> tuple[Tensor, Tensor]:
        """Return posterior mean and standard deviation of the noiseless loss, (n) and (n).

        Args:
            index: Choice indices (n × groups).
        """
        mean, variance = self.tables.predict(torch.from_numpy(index))
        return mean * self.scale + self.location, variance.sqrt() * self.scale

    def predict_moves(
        self, index: Integers, groups: Integers, choices: Integers
    ) -> tuple[Tensor, Tensor]:
        """Return what :meth:`predict` would of a configuration with one group changed.

        Args:
            index: Choice indices of the configuration (groups).
            groups: The group that each change moves (changes).
            choices: Its new choice index (changes).

        Returns:
            Means and standard deviations (changes), (changes).
        """
        mean, variance = self.tables.predict_moves(
            torch.from_numpy(index), torch.from_numpy(groups), torch.from_numpy(choices)
        )
        return mean * self.scale + self.location, variance.sqrt() * self.scale

    def sample_tables(self, count: int, generator: np.random.Generator) -> Floats:
        """Return posterior samples of the loss, each as a sum over groups.

        Args:
            count: How many.
            generator: Source of randomness.

        Returns:
            What each choice of each group contributes (count × groups × choices), up to a
            constant, nats.
        """
        tables = self.tables
        groups, choices = tables.mean.shape
        drawn = torch.from_numpy(generator.standard_normal((count, groups, choices)))
        prior = tables.kernel.root * (drawn @ self.features.correlation_factor.T)
        at = gathered(prior, tables.inputs).sum(dim=-1)
        noise = torch.from_numpy(generator.standard_normal(tuple(at.shape)))
        # Matheron's rule: a sample of the prior, corrected by how far it is off at the data.
        errors = at + tables.noise**0.5 * noise
        sampled = tables.mean + prior + tables.corrections(errors)
        result: Floats = (sampled * self.scale).numpy()
        return result

    def fantasise(self, pending: Integers) -> Surrogate:
        """Return the surrogate as if the pending configurations had scored their means.

        The means stay; the uncertainty near pending configurations shrinks, so a batch spreads.

        Args:
            pending: Choice indices (pending × groups).
        """
        if not len(pending):
            return self
        return replace(self, tables=self.tables.conditioned(torch.from_numpy(pending)))


def fit_surrogate(features: Features, index: Integers, loss: Floats) -> Surrogate:
    """Fit the Gaussian process to losses of one round.

    Hyperparameters maximise the posterior density; equal losses give equal fits. If no maximum
    is found, the initial hyperparameters stay.

    Args:
        features: What is known of choices.
        index: Choice indices of the evaluated configurations (n × groups).
        loss: Their losses (n), nats.

    Raises:
        InputError: If there are fewer than two configurations, or a loss is not finite.
    """
    if len(index) < 2 or not np.isfinite(loss).all():
        finite = int(np.isfinite(loss).sum())
        raise InputError(
            f"a surrogate needs two or more losses, all finite; got {finite} of {len(index)} finite"
        )
    location, scale = float(loss.mean()), max(float(loss.std()), 1e-9)
    targets = torch.from_numpy((loss - location) / scale)
    inputs = torch.from_numpy(index)
    # Choice indices are no quantities, so scaling them would be wrong.
    with validate_input_scaling(False):
        model = SingleTaskGP(
            inputs.double(),
            targets[:, None],
            likelihood=GaussianLikelihood(
                noise_prior=LogNormalPrior(*_NOISE_PRIOR),
                noise_constraint=GreaterThan(1e-5, initial_value=_INITIAL_NOISE),
            ),
            mean_module=ProxyMean(features),
            covar_module=ScaleKernel(
                ErrorKernel(features),
                outputscale_prior=LogNormalPrior(*_SCALE_PRIOR),
                outputscale_constraint=Positive(initial_value=torch.tensor(0.3)),
            ),
            outcome_transform=None,
        )
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    # BoTorch retries a failed fit from hyperparameters drawn with PyTorch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            fit_gpytorch_mll(gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
        except ModelFittingError:
            model.load_state_dict(initial)
    model.eval()
    with torch.no_grad():
        tables = posterior_tables(
            features.kernel.scaled(float(model.covar_module.outputscale)),
            float(model.likelihood.noise),
            inputs,
            targets,
            float(model.mean_module.constant),
            model.mean_module.slope * features.proxy,
        )
    return Surrogate(model, features, location, scale, tables)
