"""Expected hypervolume improvement with one modelled and one exactly known objective.

Both objectives are minimised. The loss L of a candidate is Gaussian; its average bits b are
known. Against a front with losses f_1 > f_2 > … at bits b_1 < b_2 < …, a candidate adds area in
each strip [b_j, b_{j+1}] that lies right of b, down from f_j, so the improvement is

    EHVI = Σ_j width_j(b) · E[(f_j − L)₊],   f_0 and b_{J+1} from the reference point,

a sum of one-dimensional expected improvements. No box decomposition or sampling is needed.
"""

from __future__ import annotations

import torch

# BoTorch's numerically stable log(φ(u) + u Φ(u)); it has no public name.
from botorch.acquisition.analytic import _log_ei_helper
from torch import Tensor

from qsearch.errors import InputError


def log_expected_hypervolume_improvement(
    mean: Tensor,
    standard_deviation: Tensor,
    average_bits: Tensor,
    front: Tensor,
    reference_point: tuple[float, float],
) -> Tensor:
    """Return the logarithm of expected hypervolume improvement (n).

    The logarithm keeps order and gradient where the improvement underflows.

    Args:
        mean: Posterior mean of the loss (n).
        standard_deviation: Posterior standard deviation of the loss (n), positive.
        average_bits: Average bits (n).
        front: Non-dominated points (m × 2), rows (loss, average bits) by rising bits; may be
            empty.
        reference_point: (loss, average bits); a candidate at or above its bits scores −∞.

    Returns:
        Log improvement in units of loss × bits (n).

    Raises:
        InputError: If shapes disagree.
    """
    if not mean.shape == standard_deviation.shape == average_bits.shape or mean.dim() != 1:
        raise InputError(
            f"mean {tuple(mean.shape)}, standard deviation {tuple(standard_deviation.shape)} and"
            f" average bits {tuple(average_bits.shape)} must be vectors of one length"
        )
    if front.dim() != 2 or front.shape[1] != 2:
        raise InputError(f"front must have shape (m, 2), not {tuple(front.shape)}")
    inside = front[(front < front.new_tensor(reference_point)).all(dim=1)]
    ceilings = torch.cat([inside.new_tensor([reference_point[0]]), inside[:, 0]])
    left = torch.cat([inside.new_tensor([-torch.inf]), inside[:, 1]])
    right = torch.cat([inside[:, 1], inside.new_tensor([reference_point[1]])])
    widths = (right - torch.maximum(average_bits[:, None], left)).clamp_min(0.0)
    standardised = (ceilings - mean[:, None]) / standard_deviation[:, None]
    improvement = _log_ei_helper(standardised) + standard_deviation[:, None].log()
    terms: Tensor = torch.where(widths > 0, widths.log() + improvement, -torch.inf)
    return torch.logsumexp(terms, dim=1)
