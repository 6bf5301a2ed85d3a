"""A Gaussian process for the loss, on what is cheap to know of a configuration.

Knob positions predict the loss poorly; proxy scores, such as quantization error × sensitivity,
predict it well and cost no evaluation. With φ_g the score of group g's choice and z = Σ φ_g the
configuration's proxy, the model is

    loss(c) = a + s·z + Σ_g w_g·φ_g + z·h(√φ_1, …, √φ_G) + noise,    s ≥ 0.

The prior mean a + s·z rises with the proxy, and its two parameters are fitted to the data. The
weights w correct the sensitivity of single groups. The smooth h (Matérn 5/2) corrects the proxy as
a whole, in proportion to it: what the proxy calls harmless can hardly be harmful.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import gpytorch
import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from gpytorch.priors import GammaPrior, LogNormalPrior
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space import Floats, Integers, Space

_NOISE_PRIOR = (-1.0, 0.6)
"""Log-normal prior of the noise variance, as a share of the losses' variance.

A share of a third is what SST-2 losses have; a tighter or smaller prior made intervals from 20
losses too narrow.
"""

_INITIAL_NOISE = 0.1
"""Noise variance, as a share of the losses' variance, from which the fit starts."""


@dataclass(frozen=True)
class Features:
    """Surrogate inputs of every choice of every group.

    Args:
        linear: Score φ, scaled so that uniformly drawn choices have a total variance of 1
            (groups × choices).
        root: √φ, scaled alike (groups × choices).
        proxy: φ, scaled so that uniformly drawn choices have a mean total of 1
            (groups × choices).
    """

    linear: Tensor
    root: Tensor
    proxy: Tensor

    def __call__(self, index: Integers) -> Tensor:
        """Return inputs (n × (2·groups + 1)) of choice indices (n × groups)."""
        chosen = torch.from_numpy(index)
        groups = torch.arange(self.linear.shape[0])
        return torch.cat(
            [
                self.linear[groups, chosen],
                self.root[groups, chosen],
                self.proxy[groups, chosen].sum(dim=1, keepdim=True),
            ],
            dim=1,
        )


def score_features(space: Space, scores: Floats) -> Features:
    """Return features from proxy scores.

    Args:
        space: The space.
        scores: Predicted rise of the loss, up to a common factor (groups × choices); not
            negative.

    Raises:
        InputError: If the shape is wrong or a value is negative or not finite.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected:
        raise InputError(f"scores have shape {scores.shape}, expected {expected}")
    if not np.isfinite(scores).all() or scores.min() < 0:
        raise InputError("scores must be finite and not negative")

    def scaled(values: Floats, by: float) -> Tensor:
        return torch.from_numpy(values / max(by, 1e-300))

    root = np.sqrt(scores)
    return Features(
        linear=scaled(scores, float(np.sqrt(scores.var(axis=1).sum()))),
        root=scaled(root, float(np.sqrt(root.var(axis=1).sum()))),
        proxy=scaled(scores, float(scores.mean(axis=1).sum())),
    )


class ProxyMean(Mean):  # type: ignore[misc]  # gpytorch is untyped
    """Prior mean that rises with the proxy, the last input column: a + s·z with s ≥ 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros(())))
        self.register_parameter("raw_slope", torch.nn.Parameter(torch.zeros(())))
        self.register_constraint("raw_slope", Positive())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return prior means (…) of inputs (… × columns)."""
        slope = self.raw_slope_constraint.transform(self.raw_slope)
        result: Tensor = self.constant + slope * inputs[..., -1]
        return result


@dataclass(frozen=True)
class Surrogate:
    """A fitted Gaussian process for the loss.

    Args:
        model: BoTorch model of the standardised loss.
        features: Turns choice indices into the model's inputs.
        location: Mean of the losses it was fitted to.
        scale: Their standard deviation.
    """

    model: SingleTaskGP
    features: Features
    location: float
    scale: float

    @property
    def noise(self) -> float:
        """Standard deviation of a loss around the noiseless one."""
        return float(self.model.likelihood.noise.detach().sqrt()) * self.scale

    @cached_property
    def _solver(self) -> tuple[Tensor, Tensor, Tensor]:
        """Training inputs (n × columns), K⁻¹(y − m) (n) and the inverse Cholesky factor (n × n)."""
        model = self.model
        inputs, targets = model.train_inputs[0], model.train_targets
        with torch.no_grad():
            prior = model.likelihood(model.forward(inputs))
            factor = psd_safe_cholesky(prior.covariance_matrix)
            weights = torch.cholesky_solve((targets - prior.mean)[:, None], factor)[:, 0]
            identity = torch.eye(len(factor), dtype=factor.dtype)
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        return inputs, weights, inverse

    def predict(self, index: Integers, chunk: int = 2048) -> tuple[Tensor, Tensor]:
        """Return posterior mean and standard deviation of the noiseless loss, (n) and (n).

        The search asks for many thousands of marginals at a time; the model's own posterior would
        make their joint covariance, which was measured eight times slower.

        Args:
            index: Choice indices (n × groups).
            chunk: Rows that are predicted at once.
        """
        inputs, weights, inverse = self._solver
        mean_module, kernel = self.model.mean_module, self.model.covar_module
        means, variances = [weights[:0]], [weights[:0]]
        with torch.no_grad():
            for start in range(0, len(index), chunk):
                points = self.features(index[start : start + chunk])
                cross = kernel(points, inputs).to_dense()
                means.append(mean_module(points) + cross @ weights)
                explained = (cross @ inverse.T).square().sum(dim=1)
                variances.append(kernel(points, diag=True) - explained)
        return (
            torch.cat(means) * self.scale + self.location,
            torch.cat(variances).clamp_min(1e-12).sqrt() * self.scale,
        )

    def fantasise(self, pending: Integers) -> Surrogate:
        """Return the surrogate as if the pending configurations had scored their means.

        The means stay; the uncertainty near pending configurations shrinks, so a batch spreads.

        Args:
            pending: Choice indices (pending × groups).
        """
        if not len(pending):
            return self
        inputs = self.features(pending)
        with torch.no_grad(), gpytorch.settings.debug(False):
            believed = self.model(inputs).mean[:, None]
            model = self.model.condition_on_observations(inputs, believed)
        return Surrogate(model, self.features, self.location, self.scale)


def _kernel(groups: int) -> Kernel:
    """Return the kernel over inputs (2·groups + 1): a linear term, and a smooth one times z·z'."""
    smooth = MaternKernel(
        nu=2.5,
        active_dims=tuple(range(groups, 2 * groups)),
        # Inputs are scaled so that distances do not grow with the number of groups.
        lengthscale_prior=LogNormalPrior(0.7, 0.5),
    )
    return ScaleKernel(
        _linear(tuple(range(groups))),
        outputscale_prior=GammaPrior(1.0, 2.0),
        outputscale_constraint=Positive(initial_value=torch.tensor(0.3)),
    ) + ScaleKernel(
        _linear((2 * groups,)) * smooth,
        outputscale_prior=GammaPrior(1.5, 3.0),
        outputscale_constraint=Positive(initial_value=torch.tensor(0.3)),
    )


def _linear(columns: tuple[int, ...]) -> LinearKernel:
    """Return a linear kernel of variance 1, since the scale around it is enough."""
    kernel = LinearKernel(active_dims=columns)
    kernel.variance = 1.0
    kernel.raw_variance.requires_grad_(False)
    return kernel


def fit_surrogate(features: Features, index: Integers, loss: Floats) -> Surrogate:
    """Fit the Gaussian process to losses of one round.

    Hyperparameters maximise the posterior density; equal losses give equal fits. If no maximum
    is found, the initial hyperparameters stay.

    Args:
        features: Inputs of layer configurations.
        index: Choice indices of the evaluated configurations (n × groups).
        loss: Their losses (n), nats.

    Raises:
        InputError: If there are fewer than two configurations, or a loss is not finite.
    """
    if len(index) < 2 or not np.isfinite(loss).all():
        raise InputError(f"a surrogate needs two or more finite losses, got {len(index)}")
    location, scale = float(loss.mean()), max(float(loss.std()), 1e-9)
    targets = torch.from_numpy((loss - location) / scale)[:, None]
    inputs = features(index)
    model = SingleTaskGP(
        inputs,
        targets,
        likelihood=GaussianLikelihood(
            noise_prior=LogNormalPrior(*_NOISE_PRIOR),
            noise_constraint=GreaterThan(1e-5, initial_value=_INITIAL_NOISE),
        ),
        mean_module=ProxyMean(),
        covar_module=_kernel(features.linear.shape[0]),
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
    return Surrogate(model, features, location, scale)
