"""Random configurations, spread evenly over average bits."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.space.space import Space

_REDRAWS = 8
"""Times that configurations outside the interval are drawn again."""

_CANDIDATES = 8
"""Choices drawn for a group; the one that brings the average nearest to its target is taken."""

_BISECTIONS = 100
_MAX_TILT = 1e6


def sample_configurations(
    space: Space, count: int, bits: tuple[float, float], generator: np.random.Generator
) -> Integers:
    """Draw configurations uniformly over an interval of average bits (count × groups).

    Drawing each knob uniformly would crowd the middle of the range, since the average over many
    groups concentrates. Here a target is drawn uniformly; groups are drawn independently from the
    maximum-entropy distribution whose mean is the target; then single groups are drawn again while
    that brings the average nearer to the target. What then lies outside the interval is drawn
    again, a few times: a coarse space may hold nothing inside, so the caller must check the bits.
    The part of the interval outside the space does not count.
    """
    least, greatest = space.average_bits_range
    low, high = max(bits[0], least), min(bits[1], greatest)
    if low > high:
        raise InputError(
            f"average bits [{bits[0]:g}, {bits[1]:g}] lie outside the space's"
            f" [{least:.4g}, {greatest:.4g}]"
        )
    targets = generator.uniform(low, high, size=count)
    drawn = np.zeros((count, len(space.groups)), dtype=np.int64)
    for row, target in enumerate(targets.tolist()):
        drawn[row] = _sample_near(space, target, generator)
    for _ in range(_REDRAWS):
        for row in np.flatnonzero(~space.within(drawn, bits)).tolist():
            drawn[row] = _sample_near(space, float(generator.uniform(low, high)), generator)
    return drawn


def _sample_near(space: Space, target: float, generator: np.random.Generator) -> Integers:
    probabilities = _maximum_entropy(space.bits_table, target)
    index = generator.choice(space.choices.size, size=len(space.groups), p=probabilities)
    weights = space.group_share
    error = float(weights @ space.bits_table[index]) - target
    for group in generator.permutation(len(space.groups)):
        redrawn = generator.choice(space.choices.size, size=_CANDIDATES, p=probabilities)
        steps = weights[group] * (space.bits_table[redrawn] - space.bits_table[index[group]])
        best = int(np.abs(error + steps).argmin())
        if abs(error + steps[best]) < abs(error):
            error += float(steps[best])
            index[group] = redrawn[best]
    return index.astype(np.int64)


def _maximum_entropy(bits: Floats, target: float) -> Floats:
    """Return the distribution over choices of greatest entropy whose mean bits are the target.

    It is proportional to exp(tilt · bits); the tilt is found by bisection.
    """
    centred = bits - target
    low, high = -1.0, 1.0

    def weights(tilt: float) -> Floats:
        exponent = tilt * centred
        result: Floats = np.exp(exponent - exponent.max())
        return result

    def mean(tilt: float) -> float:
        return float(weights(tilt) @ centred / weights(tilt).sum())

    while mean(low) > 0 and low > -_MAX_TILT:
        low *= 2
    while mean(high) < 0 and high < _MAX_TILT:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < 0 else (low, middle)
    final = weights((low + high) / 2)
    result: Floats = final / final.sum()
    return result
