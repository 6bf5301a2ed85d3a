"""Expected hypervolume improvement with one modelled and one exactly known objective.

Both objectives are minimised. The loss L of a candidate is Gaussian; its average bits b are
known. Against a front with losses f_1 > f_2 > … at bits b_1 < b_2 < …, a candidate adds area in
each strip [b_j, b_{j+1}] that lies right of b, down from f_j, so the improvement is

    EHVI = Σ_j width_j(b) · E[(f_j − L)₊],   f_0 and b_{J+1} from the reference point,

a sum of one-dimensional expected improvements. No box decomposition or sampling is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction

# BoTorch's numerically stable log(φ(u) + u Φ(u)); it has no public name.
from botorch.acquisition.analytic import _log_ei_helper
from botorch.exceptions.errors import UnsupportedError
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search import pareto
from qsearch.search.local_search import moved
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.surrogate.surrogate import Surrogate

_MIN_VARIANCE = 1e-12


def log_expected_hypervolume_improvement(
    mean: Tensor,
    std: Tensor,
    average_bits: Tensor,
    front: Tensor,
    reference_point: tuple[float, float],
) -> Tensor:
    """Return the logarithm of expected hypervolume improvement (n).

    The logarithm keeps order and gradient where the improvement underflows. Improvements are in
    units of loss × bits.

    Args:
        mean: Posterior mean of the loss (n).
        std: Posterior standard deviation of the loss (n), positive.
        average_bits: Average bits (n).
        front: Non-dominated points (m × 2), rows (loss, average bits) by rising bits; m may be 0.
        reference_point: (loss, average bits); a candidate at or above its bits scores −∞.
    """
    if not mean.shape == std.shape == average_bits.shape or mean.dim() != 1:
        raise InputError(
            f"mean {tuple(mean.shape)}, standard deviation {tuple(std.shape)} and"
            f" average bits {tuple(average_bits.shape)} must be vectors of one length"
        )
    if front.dim() != 2 or front.shape[1] != 2:
        raise InputError(f"front must have shape (m, 2), not {tuple(front.shape)}")
    inside = front[(front < front.new_tensor(reference_point)).all(dim=1)]
    ceilings = torch.cat([inside.new_tensor([reference_point[0]]), inside[:, 0]])
    left = torch.cat([inside.new_tensor([-torch.inf]), inside[:, 1]])
    right = torch.cat([inside[:, 1], inside.new_tensor([reference_point[1]])])
    widths = right - torch.maximum(average_bits[:, None], left)
    # A strip without width gets a log of its own: log 0 would make the gradient NaN.
    log_widths = torch.where(widths > 0, widths, 1.0).log()
    standardised = (ceilings - mean[:, None]) / std[:, None]
    improvement = _log_ei_helper(standardised) + std[:, None].log()
    terms: Tensor = torch.where(widths > 0, log_widths + improvement, -torch.inf)
    return torch.logsumexp(terms, dim=1)


class LogEHVIKnownObjective(AcquisitionFunction):  # type: ignore[misc]  # BoTorch is untyped
    """Log expected hypervolume improvement of a modelled loss and an exactly known objective.

    Both are minimised. This is :func:`log_expected_hypervolume_improvement` for BoTorch's
    optimisers: differentiable in X through the model and through the known objective, for one
    candidate (q = 1) at a time. Where the known objective is at or beyond the reference point,
    there is no improvement; the logarithm continues there along its tangent just inside, which is
    finite and steep, so that it leads an optimiser back.

    Example:
        >>> average_bits = lambda X: X.mean(dim=(-2, -1))
        >>> acquisition = LogEHVIKnownObjective(model, points, (1.0, 8.0), average_bits)
        >>> optimize_acqf(acquisition, bounds, q=1, num_restarts=4, raw_samples=64)

    Args:
        model: Fitted BoTorch model with one output, the loss, in its own units (not negated).
        front: Points (m × 2), rows (loss, known objective), in any order; dominated ones are left
            out; m may be 0. Under noise, take the model's posterior means as losses.
        reference_point: (loss, known objective).
        known: Maps X (… × 1 × d) to the known objective (…), differentiably if gradients of it
            are needed.
    """

    _log = True

    def __init__(
        self,
        model: Model,
        front: Tensor,
        reference_point: tuple[float, float],
        known: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(model=model)
        if model.num_outputs != 1:
            raise InputError(f"the model must have one output, not {model.num_outputs}")
        points = pareto.front(front.detach().cpu().numpy())
        self.register_buffer("front", torch.from_numpy(points).to(front))
        self.reference_point = reference_point
        self.known = known

    def set_X_pending(self, X_pending: Tensor | None = None) -> None:  # noqa: N802  # BoTorch's
        """Refuse pending candidates: condition the model on them and make a new acquisition."""
        if X_pending is not None:
            raise UnsupportedError(
                "LogEHVIKnownObjective takes no pending candidates; for a batch, condition the"
                " model on its means at them (model.condition_on_observations)"
            )

    @t_batch_mode_transform(expected_q=1)  # type: ignore[untyped-decorator]  # BoTorch is untyped
    def forward(self, X: Tensor) -> Tensor:
        """Return log expected hypervolume improvement (…), finite, of candidates (… × 1 × d)."""
        self.to(X)
        known = self.known(X)
        if known.shape != X.shape[:-2]:
            raise InputError(
                f"the known objective of X {tuple(X.shape)} must have the shape"
                f" {tuple(X.shape[:-2])}, not {tuple(known.shape)}"
            )
        posterior = self.model.posterior(X)
        edge = self.reference_point[1]
        margin = torch.finfo(X.dtype).eps ** 0.5 * max(1.0, abs(edge))
        inside = known.clamp_max(edge - margin)
        value = log_expected_hypervolume_improvement(
            posterior.mean.flatten(),
            posterior.variance.clamp_min(_MIN_VARIANCE).sqrt().flatten(),
            inside.flatten(),
            self.front,
            self.reference_point,
        )
        # The last strip's width is the margin here, so its logarithm has the slope 1/margin.
        result: Tensor = value.view(X.shape[:-2]) - (known - inside) / margin
        return result


@dataclass(frozen=True, eq=False)
class Improvement:
    """Log expected hypervolume improvement as a function of choice indices.

    The surrogate has pending configurations fantasised. Non-dominated points (m × 2) are rows
    (loss, average bits) by rising bits. Outside the interval of average bits, the score is −∞.
    """

    surrogate: Surrogate
    space: ConfigurationSpace
    front: Tensor
    reference: tuple[float, float]
    bits: tuple[float, float]

    def __call__(self, index: Integers) -> Floats:
        """Return scores (n) of choice indices (n × groups)."""
        return self._of(*self.surrogate.predict(index), self.space.average_bits(index))

    def moves(self, index: Integers, groups: Integers, choices: Integers) -> Floats:
        """Return scores of a configuration with one group changed, as in :class:`Score`."""
        average_bits = self.space.average_bits(moved(index, groups, choices))
        return self._of(*self.surrogate.predict_moves(index, groups, choices), average_bits)

    def _of(self, mean: Tensor, std: Tensor, average_bits: Floats) -> Floats:
        known = torch.from_numpy(average_bits)
        value = log_expected_hypervolume_improvement(mean, std, known, self.front, self.reference)
        inside = (known >= self.bits[0]) & (known <= self.bits[1])
        result: Floats = torch.where(inside, value, -torch.inf).numpy()
        return result


def acquisition(
    surrogate: Surrogate,
    space: ConfigurationSpace,
    known: Integers,
    loss: Floats,
    bits: tuple[float, float],
) -> Improvement:
    """Return log expected hypervolume improvement over known configurations.

    Known are evaluated and pending configurations (n × groups), of which the surrogate fantasises
    the latter; losses are of the former, for the reference point. The front is that of estimated
    losses and not of observed ones, so that sampling noise does not hold a configuration on it.
    """
    points = pareto.front(estimated_points(surrogate, space, known))
    return Improvement(
        surrogate, space, torch.from_numpy(points), pareto.reference_point(loss, bits), bits
    )


def estimated_points(surrogate: Surrogate, space: ConfigurationSpace, index: Integers) -> Floats:
    """Return points (n × 2), rows (estimated loss, average bits)."""
    return np.column_stack([surrogate.predict(index)[0].numpy(), space.average_bits(index)])
