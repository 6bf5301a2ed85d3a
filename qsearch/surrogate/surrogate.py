"""A Gaussian process for the loss, on what is cheap to know of a configuration.

Quantizing changes group g's weights by an error D_g. With φ_g the score of the group's choice
(error × sensitivity) and z = Σ φ_g the configuration's proxy, the mean loss over n examples is

    loss(c) = a + s·z(c) + h(c) + sampling noise(c) + noise,    s ≥ 0.

The prior mean a + s·z is what errors do to second order, by sensitivities that were estimated. h is
what that misses: groups whose sensitivity is misjudged, which scales all their scores alike, and a
gradient of the task's loss that is not zero, whose effect covaries as errors do,

    cov(h, h') = τ² Σ_g φ_g φ'_g + σ² k,    k(c, c') = Σ_g √φ_g(c_g) · R[c_g, c'_g] · √φ_g(c'_g),

with R the correlation of the errors of two choices. *Sampling noise* is how well the errors happen
to suit these n examples: (1/n) Σ_e ⟨γ_e, D⟩ with γ_e the examples' gradients, whose mean over the
task is near zero under a trained adapter. Its covariance is E⟨γ, D⟩⟨γ, D'⟩ / n. By the information
equality (the Fisher information is the Hessian) E⟨γ, D⟩² is twice the rise s·z, so that

    cov(sampling noise, sampling noise') = (2 s / n) k

has no parameter of its own. Sampling noise is fitted with the rest, but not predicted: the
surrogate's loss is that of the task, not of the examples at hand. Mean and kernels add over groups,
so the posterior does (:mod:`qsearch.surrogate.additive_posterior`). Where the losses are much more
probable so, their logarithm is modelled instead (:mod:`qsearch.surrogate.outcome_transform`), with
sampling noise as it is at a typical loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import gpytorch
import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.settings import validate_input_scaling
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.surrogate.additive_posterior import (
    AdditiveKernel,
    AdditivePosterior,
    additive_posterior,
)
from qsearch.surrogate.features import Features
from qsearch.surrogate.kernels import LossKernel, ProxyMean, SamplingNoiseKernel, SumKernel
from qsearch.surrogate.outcome_transform import (
    OutcomeTransform,
    linear_outcome,
    logarithmic_outcome,
)

_NOISE_PRIOR = (-1.0, 0.6)
"""Log-normal prior of the noise variance, as a share of the losses' variance.

Its median is what losses of random configurations have on SST-2; a tighter or smaller prior makes
intervals too narrow.
"""

_SMALL_PRIOR = (-2.0, 1.0)
"""Log-normal prior of τ² and σ², as shares of the losses' variance; kernels are 1 on average."""

_ALL_PRIOR = (0.0, 1.0)
"""The same of σ² where sampling noise is not modelled separately, so that σ² holds it too."""

_MIN_EVIDENCE = 7.0
"""Log density by which losses must be more probable on the logarithmic scale for it to be taken:
a thousand times as probable."""

_INITIAL_NOISE = 0.1
"""Noise variance, as a share of the losses' variance, from which the fit starts."""

_INITIAL_SCALE = 0.3
"""The same of τ² and σ²."""


@dataclass(frozen=True)
class Surrogate:
    """A fitted Gaussian process for the loss.

    The BoTorch model is of the outcome y at choice indices, and so is the posterior, but for the
    task's loss.
    """

    model: SingleTaskGP
    features: Features
    outcome: OutcomeTransform
    posterior: AdditivePosterior

    @cached_property
    def on_examples(self) -> Surrogate:
        """The same process for losses on the examples at hand, sampling noise included."""
        posterior = _posterior(self.model, self.features, with_sampling_noise=True)
        return replace(self, posterior=posterior)

    @property
    def mean_table(self) -> Floats:
        """Contribution of each choice of each group to the posterior mean of y (groups × choices).

        The loss rises with y, so the least sum has the least loss.
        """
        result: Floats = self.posterior.mean.numpy()
        return result

    def predict(self, index: Integers) -> tuple[Tensor, Tensor]:
        """Return posterior mean and std of the task's loss (n) of choice indices (n × groups)."""
        return self.outcome.moments(*self.posterior.predict(torch.from_numpy(index)))

    def predict_observed(self, index: Integers) -> tuple[Tensor, Tensor]:
        """Return the same of losses on the examples at hand, noise included."""
        mean, variance = self.on_examples.posterior.predict(torch.from_numpy(index))
        return self.outcome.moments(mean, variance + self.posterior.noise)

    def predict_moves(
        self, index: Integers, groups: Integers, choices: Integers
    ) -> tuple[Tensor, Tensor]:
        """Return what :meth:`predict` does of a configuration (groups) with one group changed.

        Each change moves a group (changes) to a choice index (changes).
        """
        change = (torch.from_numpy(values) for values in (index, groups, choices))
        return self.outcome.moments(*self.posterior.predict_moves(*change))

    def fantasise(self, pending: Integers) -> Surrogate:
        """Return the surrogate as if y at pending configurations (m × groups) were its mean.

        Means of y stay; the uncertainty near pending configurations shrinks, so a batch spreads.
        """
        if not len(pending):
            return self
        return replace(self, posterior=self.posterior.fantasise(torch.from_numpy(pending)))


def fit_surrogate(
    features: Features, index: Integers, loss: Floats, examples: int | None = None
) -> Surrogate:
    """Fit the Gaussian process to losses of one round.

    Hyperparameters maximise the posterior density; equal losses give equal fits. If no maximum
    is found, the initial hyperparameters stay. Losses (n), nats, are all on the same examples; how
    many those are gives the variance of sampling noise, None that the loss on them is itself what
    the search should lower.
    """
    if len(index) < 2 or not np.isfinite(loss).all():
        finite = int(np.isfinite(loss).sum())
        raise InputError(
            f"a surrogate needs two or more losses, all finite; got {finite} of {len(index)} finite"
        )
    linear, logarithmic = (
        _fitted(features, index, loss, examples, outcome)
        for outcome in (linear_outcome(loss), logarithmic_outcome(loss))
    )
    is_logarithmic = logarithmic.density - linear.density >= _MIN_EVIDENCE
    fitted = logarithmic if is_logarithmic and np.ptp(loss) > 0 else linear
    posterior = _posterior(fitted.model, features, with_sampling_noise=False)
    return Surrogate(fitted.model, features, fitted.outcome, posterior)


@dataclass(frozen=True)
class _Fitted:
    """A process fitted on one scale, and the logarithm of the posterior density of its losses."""

    model: SingleTaskGP
    outcome: OutcomeTransform
    density: float


def _fitted(
    features: Features,
    index: Integers,
    loss: Floats,
    examples: int | None,
    outcome: OutcomeTransform,
) -> _Fitted:
    weight = None if examples is None else examples * outcome.unit
    model = _model(features, torch.from_numpy(index), outcome.of(loss), weight)
    return _Fitted(model, outcome, _maximise(model) + outcome.log_slopes(loss))


def _model(
    features: Features, inputs: Tensor, targets: Tensor, examples: float | None
) -> SingleTaskGP:
    """Return the process for targets y (n) with its initial hyperparameters.

    ``examples`` is the number of examples times the nats to a unit of y, or None if sampling noise
    is not modelled separately.
    """
    mean, errors = ProxyMean(features), SumKernel(features.error_kernel)
    covariance = LossKernel(
        by_error=_scaled(errors, _ALL_PRIOR if examples is None else _SMALL_PRIOR),
        by_proxy=_scaled(SumKernel(features.proxy_kernel), _SMALL_PRIOR),
        sampling_noise=None if examples is None else SamplingNoiseKernel(errors, mean, examples),
    )
    # Choice indices are categorical, so scaling them would be wrong.
    with validate_input_scaling(False):
        return SingleTaskGP(
            inputs.double(),
            targets[:, None],
            likelihood=GaussianLikelihood(
                noise_prior=LogNormalPrior(*_NOISE_PRIOR),
                noise_constraint=GreaterThan(1e-5, initial_value=_INITIAL_NOISE),
            ),
            mean_module=mean,
            covar_module=covariance,
            outcome_transform=None,
        )


def _maximise(model: SingleTaskGP) -> float:
    """Maximise the posterior density of the hyperparameters; return its logarithm there."""
    density = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    # BoTorch retries a failed fit from hyperparameters drawn with PyTorch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            fit_gpytorch_mll(density)
        except ModelFittingError:
            model.load_state_dict(initial)
    density.train()
    with torch.no_grad():
        mean_density = density(model(*model.train_inputs), model.train_targets)
    model.eval()
    return float(mean_density * len(model.train_targets))


def _scaled(kernel: SumKernel, prior: tuple[float, float]) -> ScaleKernel:
    return ScaleKernel(
        kernel,
        outputscale_prior=LogNormalPrior(*prior),
        outputscale_constraint=Positive(initial_value=torch.tensor(_INITIAL_SCALE)),
    )


@torch.no_grad()
def _posterior(
    model: SingleTaskGP, features: Features, with_sampling_noise: bool
) -> AdditivePosterior:
    """Return the posterior of a fitted model, with sampling noise predicted or not."""
    covariance: LossKernel = model.covar_module
    kernel = features.error_kernel.scaled(float(covariance.by_error.outputscale))
    kernel = kernel + features.proxy_kernel.scaled(float(covariance.by_proxy.outputscale))
    sampling_noise = AdditiveKernel()
    if covariance.sampling_noise is not None:
        sampling_noise = features.error_kernel.scaled(float(covariance.sampling_noise.variance))
    if with_sampling_noise:
        kernel, sampling_noise = kernel + sampling_noise, AdditiveKernel()
    return additive_posterior(
        kernel,
        sampling_noise,
        float(model.likelihood.noise),
        model.train_inputs[0].long(),
        model.train_targets,
        float(model.mean_module.constant),
        model.mean_module.slope * features.proxy,
    )
