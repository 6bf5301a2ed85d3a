"""Random configurations, spread evenly over average bits."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.space.configuration_space import ConfigurationSpace

_REDRAWS = 8
"""Times that configurations outside the interval are drawn again."""

_CANDIDATES = 8
"""Choices drawn for a group; the one that brings the average nearest to its target is taken."""

_BISECTIONS = 100
_MAX_TILT = 1e6


def sample_configurations(
    space: ConfigurationSpace, count: int, bits: tuple[float, float], generator: np.random.Generator
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
    draw = _Sampler(space, generator)
    targets = generator.uniform(low, high, size=count)
    drawn = np.zeros((count, len(space.groups)), dtype=np.int64)
    for row, target in enumerate(targets.tolist()):
        drawn[row] = draw.near(target)
    for _ in range(_REDRAWS):
        for row in np.flatnonzero(~space.within(drawn, bits)).tolist():
            drawn[row] = draw.near(float(generator.uniform(low, high)))
    return drawn


class _Sampler:
    """Draws configurations near a target.

    Groups of one kind have the same bits (kinds × choices) and take the same choices, so that they
    have one distribution.
    """

    def __init__(self, space: ConfigurationSpace, generator: np.random.Generator) -> None:
        self._generator = generator
        self._bits, self._share = space.group_bits, space.group_share
        of_group = np.where(space.possible, self._bits, np.inf)
        self._kinds, kind = np.unique(of_group, axis=0, return_inverse=True)
        self._kind = kind.reshape(-1)
        weights = np.bincount(self._kind, weights=space.group_parameters)
        self._kind_share = weights / weights.sum()
        self._pinned_bits = space.pinned_bits
        self._searched_share = weights.sum() / space.parameters

    def near(self, target: float) -> Integers:
        """Return choice indices (groups) with average bits near a target."""
        of_searched = (target - self._pinned_bits) / self._searched_share
        distribution = _maximum_entropy(self._kinds, self._kind_share, of_searched)
        cumulative = distribution.cumsum(axis=1)
        cumulative /= cumulative[:, -1:]

        def choices(groups: Integers) -> Integers:
            uniform = self._generator.random(len(groups))
            drawn = np.empty(len(groups), dtype=np.int64)
            kinds = self._kind[groups]
            for kind in np.unique(kinds):
                drawn[kinds == kind] = cumulative[kind].searchsorted(
                    uniform[kinds == kind], side="right"
                )
            return drawn

        groups = np.arange(len(self._bits))
        index = choices(groups)
        error = float(self._share @ self._bits[groups, index]) + self._pinned_bits - target
        for group in self._generator.permutation(len(groups)):
            redrawn = choices(np.full(_CANDIDATES, group))
            bits = self._bits[group]
            steps = self._share[group] * (bits[redrawn] - bits[index[group]])
            best = int(np.abs(error + steps).argmin())
            if abs(error + steps[best]) < abs(error):
                error += float(steps[best])
                index[group] = redrawn[best]
        return index


def _maximum_entropy(bits: Floats, share: Floats, target: float) -> Floats:
    """Return distributions over choices of greatest entropy whose mean bits are the target.

    One for each kind of group (kinds × choices), which has a share (kinds) of all weights. They are
    proportional to exp(tilt · bits), with one tilt for all kinds, which is found by bisection.
    Bits of +∞ are of choices that a kind cannot take.
    """
    possible = np.isfinite(bits)
    centred = np.where(possible, bits - target, 0.0)
    low, high = -1.0, 1.0

    def weights(tilt: float) -> Floats:
        exponent = np.where(possible, tilt * centred, -np.inf)
        result: Floats = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return result

    def mean(tilt: float) -> float:
        means = [row @ off / row.sum() for row, off in zip(weights(tilt), centred, strict=True)]
        return float(share @ means)

    while mean(low) > 0 and low > -_MAX_TILT:
        low *= 2
    while mean(high) < 0 and high < _MAX_TILT:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < 0 else (low, middle)
    final = weights((low + high) / 2)
    result: Floats = final / final.sum(axis=1, keepdims=True)
    return result
