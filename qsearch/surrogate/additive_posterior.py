"""Posteriors that add over groups.

Where a process's prior mean and kernel are sums over groups, its posterior mean is one too: a table
holds what each choice of each group contributes. The explained variance is the squared length of a
sum of vectors, one for each group's choice. A prediction is then a sum of table rows, and changing
one group of a configuration costs one row, whatever the number of groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor
from torch.nn.functional import embedding_bag

_MIN_VARIANCE = 1e-12
_CHUNK = 2**14
"""Configurations that are predicted at once."""


def gather(table: Tensor, index: Tensor) -> Tensor:
    """Return values (… × groups) of a table (groups × choices) at choice indices (… × groups)."""
    return table[torch.arange(len(table)), index]


@dataclass(frozen=True)
class Term:
    """One term of an additive kernel: Σ_g r_g(c_g) · R[c_g, c'_g] · r_g(c'_g).

    The root is r (groups × choices), the correlation R (choices × choices), ones if None.
    """

    root: Tensor
    correlation: Tensor | None

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return covariances (… × n × m) of (… × n × groups) with (… × m × groups)."""
        left, right = gather(self.root, first), gather(self.root, second)
        if self.correlation is None:
            return left @ right.mT
        result = torch.zeros_like(left[..., :, None, 0] * right[..., None, :, 0])
        for group in range(len(self.root)):
            pair = self.correlation[first[..., :, None, group], second[..., None, :, group]]
            result += left[..., :, None, group] * pair * right[..., None, :, group]
        return result

    def add_product(self, result: Tensor, index: Tensor, vectors: Tensor) -> None:
        """Add the term's part of :meth:`AdditiveKernel.times` to a result."""
        for group, root in enumerate(self.root):
            at = index[:, group]
            weighted = (root[at][:, None] * vectors).to(result.dtype)
            if self.correlation is None:
                product = weighted.sum(dim=0, keepdim=True)
            else:
                product = self.correlation[:, at].to(result.dtype) @ weighted
            result[group] += root[:, None].to(result.dtype) * product


@dataclass(frozen=True)
class AdditiveKernel:
    """Covariances that add over groups: a sum of terms, zero if there is none."""

    terms: tuple[Term, ...] = ()

    def __add__(self, other: AdditiveKernel) -> AdditiveKernel:
        """Return the sum of two kernels."""
        return AdditiveKernel(self.terms + other.terms)

    def scaled(self, variance: float) -> AdditiveKernel:
        """Return the kernel times a variance."""
        return AdditiveKernel(
            tuple(replace(term, root=term.root * variance**0.5) for term in self.terms)
        )

    @cached_property
    def variances(self) -> Tensor:
        """Variance that each choice of each group contributes (groups × choices)."""
        return torch.stack([term.root.square() for term in self.terms]).sum(dim=0)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return covariances (… × n × m) of (… × n × groups) with (… × m × groups)."""
        zero = torch.zeros(*first.shape[:-1], second.shape[-2], dtype=torch.float64)
        return sum((term(first, second) for term in self.terms), zero)

    def times(self, index: Tensor, vectors: Tensor, dtype: torch.dtype) -> Tensor:
        """Return covariances of every choice with configurations (n × groups), times vectors.

        Of vectors (n × k), the products are (groups × choices × k) and add over groups.
        """
        groups, choices = self.terms[0].root.shape
        result = torch.zeros(groups, choices, vectors.shape[1], dtype=dtype)
        for term in self.terms:
            term.add_product(result, index, vectors)
        return result


@dataclass(frozen=True)
class AdditivePosterior:
    """A posterior that adds over groups.

    Args:
        kernel: Prior covariance of what is predicted.
        sampling_noise: Covariance of what the data hold, but is not predicted.
        noise: Variance of the noise that does not correlate.
        inputs: Choice indices of the data (n × groups).
        factor: Cholesky factor of the data's covariance, all noise included (n × n).
        constant: Part of the mean that does not depend on the configuration.
        mean: Contribution of each choice to the mean (groups × choices).
        explained: Contribution of each choice to the vector whose squared length is the explained
            variance (groups × choices × n), in single precision: it is by far the largest.
    """

    kernel: AdditiveKernel
    sampling_noise: AdditiveKernel
    noise: float
    inputs: Tensor
    factor: Tensor
    constant: float
    mean: Tensor
    explained: Tensor

    def predict(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and variances, (n) and (n), of choice indices (n × groups)."""
        mean = self.constant + gather(self.mean, index).sum(dim=-1)
        chunks = torch.split(index, _CHUNK)
        explained = [self._vectors(chunk).square().sum(dim=1) for chunk in chunks]
        variance = gather(self.kernel.variances, index).sum(dim=-1) - torch.cat(explained)
        return mean, variance.clamp_min(_MIN_VARIANCE)

    def predict_moves(
        self, index: Tensor, groups: Tensor, choices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return means and variances (changes) with one group of a configuration changed.

        ``index`` has the configuration's choice indices (groups), ``groups`` the group that each
        change moves (changes), ``choices`` its new choice index (changes).
        """
        before = index[groups]
        mean = self.constant + gather(self.mean, index).sum()
        mean = mean + self.mean[groups, choices] - self.mean[groups, before]
        vectors = self._vectors(index[None]) - self.explained[groups, before]
        explained = (vectors + self.explained[groups, choices]).double().square().sum(dim=1)
        variances = self.kernel.variances
        prior = gather(variances, index).sum()
        prior = prior + variances[groups, choices] - variances[groups, before]
        return mean, (prior - explained).clamp_min(_MIN_VARIANCE)

    def fantasise(self, pending: Tensor) -> AdditivePosterior:
        """Return the posterior given fantasised data: its means at configurations (m × groups)."""
        observed = self.kernel + self.sampling_noise
        cross = torch.linalg.solve_triangular(
            self.factor, observed(self.inputs, pending), upper=False
        ).T
        own = observed(pending, pending) - cross @ cross.T
        own.diagonal().add_(self.noise)
        factor = psd_safe_cholesky(own)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(own)).to(own), upper=False)
        single = self.explained.dtype
        new = self.kernel.times(pending, inverse.T, single)
        new -= self.explained @ (inverse @ cross).T.to(single)
        upper = torch.cat([self.factor, self.factor.new_zeros(len(self.factor), len(own))], dim=1)
        lower = torch.cat([cross, factor], dim=1)
        return replace(
            self,
            inputs=torch.cat([self.inputs, pending]),
            factor=torch.cat([upper, lower]),
            explained=torch.cat([self.explained, new], dim=2),
        )

    def _vectors(self, index: Tensor) -> Tensor:
        """Return the vectors (n × data) whose squared lengths are explained variances."""
        groups, choices, width = self.explained.shape
        rows = index + choices * torch.arange(groups)
        flat = self.explained.view(groups * choices, width)
        return embedding_bag(rows, flat, mode="sum").double()


@torch.no_grad()
def additive_posterior(
    kernel: AdditiveKernel,
    sampling_noise: AdditiveKernel,
    noise: float,
    inputs: Tensor,
    targets: Tensor,
    constant: float,
    prior_mean: Tensor,
) -> AdditivePosterior:
    """Return the posterior, given targets (n) at choice indices (n × groups).

    The prior mean is a constant and the contributions of choices (groups × choices).
    """
    covariance = (kernel + sampling_noise)(inputs, inputs)
    covariance.diagonal().add_(noise)
    factor = psd_safe_cholesky(covariance)
    residual = targets - constant - gather(prior_mean, inputs).sum(dim=-1)
    weights = torch.cholesky_solve(residual[:, None], factor)
    identity = torch.eye(len(factor), dtype=factor.dtype)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return AdditivePosterior(
        kernel=kernel,
        sampling_noise=sampling_noise,
        noise=noise,
        inputs=inputs,
        factor=factor,
        constant=constant,
        mean=prior_mean + kernel.times(inputs, weights, prior_mean.dtype)[..., 0],
        explained=kernel.times(inputs, inverse.T, torch.float32),
    )
