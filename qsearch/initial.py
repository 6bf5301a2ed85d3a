"""The first set of configurations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qsearch.space import Integers, Space


def initial_configurations(
    space: Space,
    quantization_error: npt.NDArray[np.float64],
    count: int,
    bits: tuple[float, float],
    generator: np.random.Generator,
) -> list[tuple[str, Integers]]:
    """Return the first set: the best uniform configurations, then random ones.

    A third are uniform, each the layer configuration with the least mean error whose bits fit
    one of a row of budgets; the search can only better them. The rest are spread uniformly over
    average bits.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        count: Most configurations to return; fewer only where the space holds fewer.
        bits: Interval of average bits.
        generator: Source of randomness.

    Returns:
        Method (``uniform`` or ``random``) and choice indices (groups) of each, distinct.
    """
    parameters = np.array([layer.parameters for layer in space.layers], dtype=np.float64)
    mean_error = np.average(quantization_error, axis=0, weights=parameters)
    chosen: dict[bytes, tuple[str, Integers]] = {}
    for budget in np.linspace(bits[0], bits[1], max(count // 3, 1)):
        fits = np.flatnonzero((space.bits_table <= budget) & (space.bits_table >= bits[0] - 1e-9))
        if len(fits):
            best = fits[np.argmin(mean_error[fits])]
            index = np.full(len(space.groups), best, dtype=np.int64)
            chosen[index.tobytes()] = ("uniform", index)
    for _ in range(10):
        for index in space.sample(count - len(chosen), bits, generator):
            chosen.setdefault(index.tobytes(), ("random", index))
        if len(chosen) >= count:
            break
    return list(chosen.values())
