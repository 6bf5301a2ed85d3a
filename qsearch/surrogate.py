"""A Gaussian process for the loss, on what is cheap to know of a configuration.

Knob positions predict the loss poorly; the quantization error that a layer configuration leaves
in its layer predicts it well, and costs no evaluation. The model is

    loss(c) = a + s·z(c) + g(c) + noise,    s ≥ 0

with z the parameter-weighted mean error of the configuration (the proxy), and g a zero-mean
process whose kernel adds a linear term over the layers' errors (layers act additively, each with
a sensitivity of its own) to a smooth term over their square roots.
"""

from __future__ import annotations

from dataclasses import dataclass

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import LinearKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from gpytorch.priors import GammaPrior, LogNormalPrior
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space import Floats, Integers, Space


@dataclass(frozen=True)
class Features:
    """Surrogate inputs of every layer configuration of every group.

    Args:
        linear: Relative squared error, scaled (groups × choices).
        root: Its square root, scaled (groups × choices).
        proxy: Contribution to the configuration's proxy (groups × choices).
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


def error_features(space: Space, quantization_error: npt.NDArray[np.float64]) -> Features:
    """Return features from the relative squared errors of each layer.

    Args:
        space: The space.
        quantization_error: ‖W−W̃‖²/‖W‖² (layers × choices), non-negative.

    Raises:
        InputError: If the shape is wrong or a value is negative or not finite.
    """
    expected = (len(space.layers), space.choices.size)
    if quantization_error.shape != expected:
        raise InputError(
            f"quantization error has shape {quantization_error.shape}, expected {expected}"
        )
    if not np.isfinite(quantization_error).all() or quantization_error.min() < 0:
        raise InputError("quantization errors must be finite and not negative")
    parameters = np.array([layer.parameters for layer in space.layers], dtype=np.float64)
    grouped = np.stack(
        [
            np.average(
                quantization_error[list(g.members)], axis=0, weights=parameters[list(g.members)]
            )
            for g in space.groups
        ]
    )
    share = space.group_parameters / space.group_parameters.sum()
    spread = max(float(grouped.std()), 1e-12)
    root = np.sqrt(grouped)
    proxy = grouped * share[:, None]
    return Features(
        linear=torch.from_numpy(grouped / spread),
        root=torch.from_numpy(root / max(float(root.std()), 1e-12)),
        proxy=torch.from_numpy(proxy / spread),
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

    def predict(self, index: Integers, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """Return posterior mean and standard deviation of the noiseless loss, (n) and (n)."""
        means, deviations = (
            [torch.zeros(0, dtype=torch.float64)],
            [torch.zeros(0, dtype=torch.float64)],
        )
        # gpytorch's debug mode warns when the training inputs are predicted, which is meant here.
        with torch.no_grad(), gpytorch.settings.fast_pred_var(), gpytorch.settings.debug(False):
            for start in range(0, len(index), chunk):
                posterior = self.model(self.features(index[start : start + chunk]))
                means.append(posterior.mean)
                deviations.append(posterior.variance.clamp_min(1e-12).sqrt())
        return (
            torch.cat(means) * self.scale + self.location,
            torch.cat(deviations) * self.scale,
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
    groups = features.linear.shape[0]
    model = SingleTaskGP(
        inputs,
        targets,
        likelihood=GaussianLikelihood(
            noise_prior=LogNormalPrior(-4.0, 1.0),
            noise_constraint=GreaterThan(1e-5, initial_value=0.02),
        ),
        mean_module=ProxyMean(),
        covar_module=ScaleKernel(
            LinearKernel(active_dims=tuple(range(groups))),
            outputscale_prior=GammaPrior(1.0, float(groups)),
            outputscale_constraint=Positive(initial_value=torch.tensor(1.0 / groups)),
        )
        + ScaleKernel(
            RBFKernel(
                active_dims=tuple(range(groups, 2 * groups)),
                # Distances grow with √groups, so the length scale's prior does too.
                lengthscale_prior=LogNormalPrior(1.4 + 0.5 * float(np.log(groups)), 0.7),
            ),
            outputscale_prior=GammaPrior(2.0, 4.0),
        ),
        outcome_transform=None,
    )
    # The linear kernel's own variance repeats the outer scale; one of them is enough.
    linear = model.covar_module.kernels[0].base_kernel
    linear.variance = 1.0
    linear.raw_variance.requires_grad_(False)
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
