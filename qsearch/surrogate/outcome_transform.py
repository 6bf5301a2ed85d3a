"""Scales on which losses can be modelled: as they are, or the logarithm above half of the least.

To second order the effects of errors add up, so losses are modelled as they are. Far from the
unquantized model they multiply: where the loss is high already, a further error adds more to it,
and predictions are off by more. On a logarithm both are even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsearch._arrays import Floats

_MAX_LOG_VARIANCE = 1.0
"""Most variance of a logarithm that counts. Beyond, a log-normal loss has so long a right tail that
a Gaussian with its moments says nothing of the left one, by which candidates are chosen."""

_MIN_SCALE = 1e-9


@dataclass(frozen=True)
class OutcomeTransform:
    """What is modelled instead of the loss: y = (v − location) / scale, of mean 0 and variance 1.

    v is log(loss − floor), nats, or the loss itself without a floor.
    """

    floor: float | None
    location: float
    scale: float

    @property
    def unit(self) -> float:
        """Nats to a unit of y; on a logarithmic scale, at the geometric mean above the floor."""
        return self.scale if self.floor is None else float(np.exp(self.location)) * self.scale

    def of(self, loss: Floats) -> Tensor:
        """Return y (n) of losses (n)."""
        return torch.from_numpy((_value(loss, self.floor) - self.location) / self.scale)

    def log_slopes(self, loss: Floats) -> float:
        """Return Σ log dy/dloss over losses (n): what turns densities of y into those of losses."""
        total = -len(loss) * float(np.log(self.scale))
        return total if self.floor is None else total - float(np.log(loss - self.floor).sum())

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the loss, nats, of a Gaussian y (…)."""
        if self.floor is None:
            return mean * self.scale + self.location, variance.sqrt() * self.scale
        spread = (variance * self.scale**2).clamp_max(_MAX_LOG_VARIANCE)
        above = (mean * self.scale + self.location + spread / 2).exp()
        return self.floor + above, above * torch.expm1(spread).sqrt()


def linear_outcome(loss: Floats) -> OutcomeTransform:
    """Return the scale of losses (n) as they are."""
    return _standardised(loss, None)


def logarithmic_outcome(loss: Floats) -> OutcomeTransform:
    """Return the logarithmic scale for finite losses (n).

    Its floor is half of the least loss; where that is about zero or below, a tenth of the losses'
    standard deviation under the least.
    """
    least = float(loss.min())
    return _standardised(loss, least - max(least / 2, float(loss.std()) / 10, _MIN_SCALE))


def _standardised(loss: Floats, floor: float | None) -> OutcomeTransform:
    value = _value(loss, floor)
    return OutcomeTransform(floor, float(value.mean()), max(float(value.std()), _MIN_SCALE))


def _value(loss: Floats, floor: float | None) -> Floats:
    return loss if floor is None else np.asarray(np.log(loss - floor))
