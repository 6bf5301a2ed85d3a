"""The first set of configurations."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.allocation import allocate_front
from qsearch.search.layer_scores import error_scores
from qsearch.search.pareto import non_dominated
from qsearch.space.space import Space
from qsearch.spec.search_spec import InitialSpec


def initial_configurations(
    space: Space,
    quantization_error: Floats,
    count: int,
    bits: tuple[float, float],
    generator: np.random.Generator,
) -> list[tuple[str, Integers]]:
    """Return the first set: uniform configurations, allocated ones, then random ones.

    A third are uniform: of the layer configurations that no other betters in both storage bits
    and mean error, some spread evenly over average bits. A third are the proxy allocator's, for
    budgets spread evenly; before training, it knows of quantization errors only. The rest are
    spread uniformly over average bits.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        count: Most configurations to return; fewer only where the interval holds few.
        bits: Interval of average bits.
        generator: Source of randomness.

    Returns:
        Method (``uniform``, ``allocated`` or ``random``) and choice indices (groups) of each,
        distinct and inside the interval.

    Raises:
        InputError: If fewer than two are found.
    """
    chosen: dict[bytes, tuple[str, Integers]] = {}
    best = _uniform_ladder(space, quantization_error, bits)
    for target in np.linspace(bits[0], bits[1], max(count // 3, 2)) if len(best) else ():
        nearest = best[np.abs(space.bits_table[best] - target).argmin()]
        index = np.full(len(space.groups), nearest, dtype=np.int64)
        chosen[index.tobytes()] = ("uniform", index)
    wanted = min(max(count // 3, 1), count - len(chosen))
    for index in _allocated(space, quantization_error, wanted, bits):
        chosen.setdefault(index.tobytes(), ("allocated", index))
    _add_random(chosen, space, count, bits, generator)
    return _two_or_more(chosen, bits)


def named_configurations(
    space: Space,
    quantization_error: Floats,
    initial: InitialSpec,
    bits: tuple[float, float],
    generator: np.random.Generator,
) -> list[tuple[str, Integers]]:
    """Return a first set that a study names budget by budget.

    Args:
        space: The space.
        quantization_error: Relative squared error (layers × choices).
        initial: Which configurations.
        bits: Interval of average bits.
        generator: Source of the random ones.

    Returns:
        As :func:`initial_configurations` does.

    Raises:
        InputError: If nothing fits a budget, or fewer than two configurations are left.
    """
    require_budgets(space, initial, bits)
    chosen: dict[bytes, tuple[str, Integers]] = {}
    ladder = _uniform_ladder(space, quantization_error, bits)
    for budget in initial.uniform:
        fitting = ladder[space.bits_table[ladder] <= budget]
        index = np.full(len(space.groups), fitting[-1], dtype=np.int64)
        chosen.setdefault(index.tobytes(), ("uniform", index))
    scores = error_scores(space, quantization_error)
    for budget in initial.allocated:
        found = allocate_front(space, scores, [budget])
        found = found[space.within(found, bits)]
        if not len(found):
            raise _nothing_fits("allocated", budget, bits)
        chosen.setdefault(found[0].tobytes(), ("allocated", found[0]))
    _add_random(chosen, space, len(chosen) + initial.random, bits, generator)
    return _two_or_more(chosen, bits)


def require_budgets(space: Space, initial: InitialSpec, bits: tuple[float, float]) -> None:
    """Check, without quantization errors, that every budget of a named first set can be met.

    Args:
        space: The space.
        initial: The first set.
        bits: Interval of average bits.

    Raises:
        InputError: If one is below all configurations inside the interval.
    """
    inside = space.bits_table[(space.bits_table >= bits[0]) & (space.bits_table <= bits[1])]
    for budget in initial.uniform:
        if not (inside <= budget).any():
            raise _nothing_fits("uniform", budget, bits)
    for budget in initial.allocated:
        if budget < max(bits[0], space.average_bits_range[0]):
            raise _nothing_fits("allocated", budget, bits)


def _nothing_fits(field: str, budget: float, bits: tuple[float, float]) -> InputError:
    return InputError(
        f"search.initial.{field}: no configuration in [{bits[0]:g}, {bits[1]:g}] average bits has"
        f" {budget:g} or fewer"
    )


def _uniform_ladder(
    space: Space, quantization_error: Floats, bits: tuple[float, float]
) -> Integers:
    """Return the layer configurations inside the interval that no other betters, by rising bits.

    Bettered is in both storage bits and mean error.
    """
    parameters = np.array([layer.parameters for layer in space.layers], dtype=np.float64)
    mean_error = np.average(quantization_error, axis=0, weights=parameters)
    inside = np.flatnonzero((space.bits_table >= bits[0]) & (space.bits_table <= bits[1]))
    points = np.column_stack([mean_error, space.bits_table])[inside]
    best = inside[non_dominated(points)]
    return best[np.argsort(space.bits_table[best], kind="stable")]


def _add_random(
    chosen: dict[bytes, tuple[str, Integers]],
    space: Space,
    count: int,
    bits: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    """Add random configurations, new ones, until there are ``count`` or the space is used up."""
    for _ in range(10):
        drawn = space.sample(count - len(chosen), bits, generator)
        for index in drawn[space.within(drawn, bits)]:
            chosen.setdefault(index.tobytes(), ("random", index))
        if len(chosen) >= count:
            break


def _two_or_more(
    chosen: dict[bytes, tuple[str, Integers]], bits: tuple[float, float]
) -> list[tuple[str, Integers]]:
    if len(chosen) < 2:
        raise InputError(
            f"search.average_bits: found {len(chosen)} configurations in"
            f" [{bits[0]:g}, {bits[1]:g}], a study needs two or more; widen it"
        )
    return list(chosen.values())


def _allocated(
    space: Space, quantization_error: Floats, count: int, bits: tuple[float, float]
) -> Integers:
    """Return the allocator's configurations inside the interval (at most count × groups)."""
    budgets = np.linspace(*bits, count + 1)[1:].tolist()
    found = allocate_front(space, error_scores(space, quantization_error), budgets)
    inside: Integers = found[space.within(found, bits)]
    return inside
