"""Which candidates are worth a whole evaluation, from losses on a part of the examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import log_expected_hypervolume_improvement
from qsearch.search.candidate_pool import Evaluated
from qsearch.search.pareto import front, reference_point
from qsearch.space.space import Space
from qsearch.surrogate.surrogate import Surrogate

_OFFSET = 100.0
"""Variance of what a part's losses have in common, in variances of the whole losses."""


@dataclass(frozen=True)
class PartLosses:
    """Losses of candidates on a part of the examples, the same for all.

    Args:
        index: Choice indices (n × groups).
        loss: Losses (n), nats; not finite where an evaluation failed.
        examples: How many examples the part has.
        share: Share of all examples that it is.
    """

    index: Integers
    loss: Floats
    examples: int
    share: float


def beliefs(surrogate: Surrogate, part: PartLosses) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of the loss, (n) and (n), given a part's losses.

    A part's loss is the loss on all examples at hand, plus what the part's examples have more or
    less than all, plus the sampling noise that they bring beyond that of all, of variance 2 s (1/n'
    − 1/n) k for n' of n examples, plus noise, which is taken to average over examples.

    Args:
        surrogate: Fitted to losses on all examples.
        part: Losses on a part, all finite.
    """
    whole = surrogate.on_examples
    # What n' of n examples are worth beside the others.
    beyond = part.examples / (1 - part.share)
    observed = whole.covariance(part.index, whole) + surrogate.sampling_noise(part.index, beyond)
    observed = observed + _OFFSET * surrogate.outcome.unit**2
    observed.diagonal().add_(surrogate.noise(part.index).square() / part.share)
    factor = psd_safe_cholesky(observed)
    residual = torch.from_numpy(part.loss) - whole.predict(part.index)[0]
    weights = torch.cholesky_solve(residual[:, None], factor)[:, 0]
    covariance = surrogate.covariance(part.index, whole)
    explained = torch.linalg.solve_triangular(factor, covariance.T, upper=False)
    mean, std = surrogate.predict(part.index)
    variance = std.square() - explained.square().sum(dim=0)
    least = 1e-6 * std.square()
    return mean + covariance @ weights, torch.maximum(variance, least).sqrt()


def promoted(
    surrogate: Surrogate,
    space: Space,
    evaluated: Evaluated,
    part: PartLosses,
    bits: tuple[float, float],
    count: int,
) -> list[int]:
    """Return the positions of the candidates that are worth a whole evaluation.

    One by one, the candidate with the greatest expected hypervolume improvement, given the part's
    losses, over the front of what is known and of those chosen before it.

    Args:
        surrogate: Fitted to losses on all examples.
        space: The space.
        evaluated: What was evaluated on all examples.
        part: The candidates' losses on a part; failed ones are not promoted.
        bits: Interval of average bits.
        count: How many to promote, at most.
    """
    sound = np.flatnonzero(np.isfinite(part.loss))
    if not len(sound):
        return []
    found = PartLosses(part.index[sound], part.loss[sound], part.examples, part.share)
    mean, std = beliefs(surrogate, found)
    average_bits = space.average_bits(found.index)
    known = surrogate.predict(evaluated.index)[0].numpy()
    points = np.column_stack([known, space.average_bits(evaluated.index)])
    reference = reference_point(evaluated.loss, bits)
    left = list(range(len(sound)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        value = log_expected_hypervolume_improvement(
            mean[left],
            std[left],
            torch.from_numpy(average_bits[left]),
            torch.from_numpy(front(points)),
            reference,
        )
        best = left.pop(int(value.argmax()))
        points = np.vstack([points, [float(mean[best]), average_bits[best]]])
        chosen.append(int(sound[best]))
    return chosen
