"""Prior mean and covariances of the surrogate, as GPyTorch modules on choice indices."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import AdditiveKernel as GPyTorchSum
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.means import Mean
from torch import Tensor

from qsearch.surrogate.additive_posterior import AdditiveKernel, gather
from qsearch.surrogate.features import Features


class ProxyMean(Mean):  # type: ignore[misc]  # gpytorch is untyped
    """Prior mean that rises with the proxy: a + s·z with s ≥ 0."""

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


class SumKernel(Kernel):  # type: ignore[misc]  # gpytorch is untyped
    """A covariance that adds over groups and has no hyperparameter."""

    has_lengthscale = False

    def __init__(self, kernel: AdditiveKernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **parameters: Any) -> Tensor:
        """Return covariances of choice indices (… × n × groups) with (… × m × groups).

        They are (… × n × m), or with ``diag`` only those of equal rows (… × n).
        """
        first, second = x1.long(), x2.long()
        if diag:
            result = torch.zeros(first.shape[:-1], dtype=torch.float64)
            for term in self._kernel.terms:
                product = gather(term.root, first) * gather(term.root, second)
                if term.correlation is not None:
                    product = product * term.correlation[first, second]
                result = result + product.sum(dim=-1)
            return result
        # Nothing here depends on a hyperparameter, and a fit asks for the same matrix each step.
        last = self._last
        if last and torch.equal(first, last[0]) and torch.equal(second, last[1]):
            return last[2]
        result = self._kernel(first, second)
        self._last = (first, second, result)
        return result


class SamplingNoiseKernel(Kernel):  # type: ignore[misc]  # gpytorch is untyped
    """Covariance of the sampling noise of a finite set of examples: (2 s / n) · Σ_g ⟨D_g, D'_g⟩.

    s is the slope of the mean: what rise of the loss a unit of proxy means. n is the number of
    examples times the nats to a unit of the loss that is modelled.
    """

    has_lengthscale = False

    def __init__(self, errors: SumKernel, mean: ProxyMean, examples: float) -> None:
        super().__init__()
        self._errors = errors
        # In a tuple, so that the mean's parameters are not registered twice.
        self._mean = (mean,)
        self._examples = examples

    @property
    def variance(self) -> Tensor:
        """Variance at a proxy of 1."""
        result: Tensor = 2 * self._mean[0].slope / self._examples
        return result

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **parameters: Any) -> Tensor:
        """Return covariances as :meth:`SumKernel.forward` does."""
        return self.variance * self._errors.forward(x1, x2, diag, **parameters)


class LossKernel(GPyTorchSum):  # type: ignore[misc]  # gpytorch is untyped
    """Covariance of observed losses: by errors, by the proxy, and perhaps of sampling noise."""

    def __init__(
        self,
        by_error: ScaleKernel,
        by_proxy: ScaleKernel,
        sampling_noise: SamplingNoiseKernel | None,
    ) -> None:
        super().__init__(by_error, by_proxy, *([] if sampling_noise is None else [sampling_noise]))

    @property
    def by_error(self) -> ScaleKernel:
        """Covariance that the correlation of errors gives."""
        return self.kernels[0]

    @property
    def by_proxy(self) -> ScaleKernel:
        """Covariance of misjudged sensitivities."""
        return self.kernels[1]

    @property
    def sampling_noise(self) -> SamplingNoiseKernel | None:
        """Covariance of sampling noise, unless it is not modelled separately."""
        return self.kernels[2] if len(self.kernels) > 2 else None
