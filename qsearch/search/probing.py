"""Proxy scores from losses that were measured with one group quantized low at a time.

It costs one evaluation for each group, where gradients of a few batches cost next to nothing; but
it sees what gradients cannot, such as errors too large for an expansion of the loss.
"""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.allocation import efficient_choices
from qsearch.search.layer_scores import error_scores
from qsearch.space.space import Space

_MIN_RISE = 0.05
"""Least rise of the loss that a group is given, as a share of the median rise: a measured rise may
be negative by chance, but no group is free."""


def probes(space: Space, quantization_error: Floats, low_bits: float) -> Integers:
    """Return the configurations whose losses tell how much each group matters.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        low_bits: Average bits that the probed group should come near to.

    Returns:
        Choice indices (1 + groups × groups). In the first row every group has its least error; in
        row 1 + g, group g alone has the efficient layer configuration nearest to ``low_bits``.
    """
    error = _group_error(space, quantization_error)
    reference = error.argmin(axis=1)
    efficient = efficient_choices(error.mean(axis=0), space.bits_table)
    low = efficient[np.abs(space.bits_table[efficient] - low_bits).argmin()]
    result = np.repeat(reference[None], len(reference) + 1, axis=0)
    groups = np.arange(len(reference))
    result[groups + 1, groups] = low
    return result


def probed_scores(
    space: Space, quantization_error: Floats, probe: Integers, loss: Floats
) -> Floats:
    """Return scores that rise with a group's error as the probes' losses say.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        probe: From :func:`probes`.
        loss: Their losses (1 + groups); not finite where an evaluation failed, which counts as the
            greatest rise that was measured.

    Returns:
        Predicted rise of the loss (groups × choices), not negative.

    Raises:
        InputError: If the first loss is not finite, or no other is.
    """
    rise = loss[1:] - loss[0]
    if not np.isfinite(rise).any():
        raise InputError("no group's sensitivity could be measured: every probe failed")
    rise = np.where(np.isfinite(rise), rise, np.nanmax(np.where(np.isfinite(rise), rise, np.nan)))
    positive = rise[rise > 0]
    least = _MIN_RISE * float(np.median(positive)) if len(positive) else 1.0
    error = _group_error(space, quantization_error)
    groups = np.arange(len(rise))
    at_probe = np.maximum(error[groups, probe[groups + 1, groups]], 1e-300)
    result: Floats = np.maximum(rise, least)[:, None] * error / at_probe[:, None]
    return result


def _group_error(space: Space, quantization_error: Floats) -> Floats:
    """Return relative squared errors, a group's being its layers' mean (groups × choices)."""
    return error_scores(space, quantization_error) / space.group_share[:, None]
