"""The first set of configurations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.allocation import allocate_front, relaxed_allocations
from qsearch.search.pareto import non_dominated
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.spec.search_spec import InitialSpec

_MAX_DRAWS = 10
"""Times that random configurations are drawn until enough of them are new and inside."""

FirstSet = list[tuple[str, Integers]]
"""Method (``uniform``, ``allocated`` or ``random``) and choice indices (groups) of each
configuration, distinct and inside the interval of average bits."""


def first_set(
    space: ConfigurationSpace,
    quantization_error: Floats,
    scores: Floats,
    initial: int | InitialSpec,
    bits: tuple[float, float],
    generator: np.random.Generator,
    wanted: Sequence[float] = (),
    by_value: Sequence[str] = (),
) -> FirstSet:
    """Return the first set that ``search.initial`` asks for: so many, or named budget by budget.

    Average bits are ``wanted`` of a set of so many alone.
    """
    of = (space, quantization_error, scores)
    if isinstance(initial, InitialSpec):
        return named_configurations(*of, initial, bits, generator, by_value)
    return initial_configurations(*of, initial, bits, generator, wanted, by_value)


def initial_configurations(
    space: ConfigurationSpace,
    quantization_error: Floats,
    scores: Floats,
    count: int,
    bits: tuple[float, float],
    generator: np.random.Generator,
    wanted: Sequence[float] = (),
    by_value: Sequence[str] = (),
) -> FirstSet:
    """Return the first set: uniform configurations, allocated ones, then random ones.

    A third are uniform, of the layer configurations that are non-dominated in storage bits and mean
    error: those of fewest bits for each value of the first knob, which are a study's baselines (at
    most half of the set), and some spread evenly over average bits. A third, or as many as average
    bits are wanted, are allocations by scores (groups × choices): for what is wanted, then for
    budgets spread evenly. Allocations of the same with one value alone of each knob of ``by_value``
    follow, as far as there is room. The rest are spread uniformly over average bits. There are
    fewer than ``count`` only where the interval holds few.
    """
    members = _Members(space, bits)
    ladder = _uniform_ladder(space, quantization_error, bits)
    for choice in _levels(space, ladder, max(count // 2, 2)):
        members.add_uniform(choice)
    uniform = max(count // 3, 2)
    for target in np.linspace(bits[0], bits[1], uniform) if len(ladder) else ():
        if len(members.by_key) < uniform:
            members.add_uniform(ladder[np.abs(space.bits_table[ladder] - target).argmin()])
    allocations = min(max(count // 3, len(wanted), 1), max(count - len(members.by_key), 0))
    spread = np.linspace(*bits, allocations + 1)[1:].tolist()
    budgets = [*wanted, *spread][:allocations]
    allocated = allocate_front(space, scores, budgets)
    for index in allocated[space.within(allocated, bits)]:
        members.add("allocated", index)
    for index in _of_each_value(space, scores, by_value, budgets, bits):
        if len(members.by_key) < count:
            members.add("allocated", index)
    members.add_random(count, generator)
    return list(members.by_key.values())


def _of_each_value(
    space: ConfigurationSpace,
    scores: Floats,
    knobs: Sequence[str],
    budgets: Sequence[float],
    bits: tuple[float, float],
) -> Integers:
    """Return allocations (n × groups) with one value alone of some knobs, inside an interval.

    A group that cannot take a value has any. Such allocations are what scores cannot say is
    better: an adapter's rank, before it is trained.
    """
    found = [np.empty((0, len(space.groups)), dtype=np.int64)]
    for name in knobs:
        values = [one[name] for one in space.choices.layer_configurations]
        for value in dict.fromkeys(values):
            has_it = np.array([one == value for one in values]) & space.possible
            allowed = np.where(has_it.any(axis=1, keepdims=True), has_it, space.possible)
            found.append(relaxed_allocations(space, np.where(allowed, scores, np.inf), budgets))
    rows = np.concatenate(found)
    return rows[space.within(rows, bits)]


def most_uniform(
    space: ConfigurationSpace, initial: int | InitialSpec, bits: tuple[float, float] | None
) -> int:
    """Return how many uniform configurations a first set has at most, without quantization errors.

    ``bits`` are None where the interval is not known yet.
    """
    if isinstance(initial, InitialSpec):
        return len(initial.uniform)
    inside = _alike(space, bits or (-np.inf, np.inf))
    levels = len(set(space.to_code(inside)[:, 0].tolist()))
    count = max(min(levels, max(initial // 2, 2)), max(initial // 3, 2))
    return min(count, len(inside))


def named_configurations(
    space: ConfigurationSpace,
    quantization_error: Floats,
    scores: Floats,
    initial: InitialSpec,
    bits: tuple[float, float],
    generator: np.random.Generator,
    by_value: Sequence[str] = (),
) -> FirstSet:
    """Return a first set that a study names budget by budget.

    For each budget, allocations with one value alone of each knob of ``by_value`` are in it, too.
    """
    require_budgets(space, initial, bits)
    members = _Members(space, bits)
    ladder = _uniform_ladder(space, quantization_error, bits)
    for budget in initial.uniform:
        members.add_uniform(ladder[space.bits_table[ladder] <= budget][-1])
    for budget in initial.allocated:
        allocated = allocate_front(space, scores, [budget])
        inside = allocated[space.within(allocated, bits)]
        if not len(inside):
            raise _nothing_fits("allocated", budget, bits)
        members.add("allocated", inside[0])
    for index in _of_each_value(space, scores, by_value, initial.allocated, bits):
        members.add("allocated", index)
    members.add_random(len(members.by_key) + initial.random, generator)
    return list(members.by_key.values())


def require_budgets(
    space: ConfigurationSpace, initial: InitialSpec, bits: tuple[float, float]
) -> None:
    """Check, without quantization errors, that every budget of a named first set can be met."""
    inside = space.bits_table[_alike(space, bits)]
    for budget in initial.uniform:
        if not (inside <= budget).any():
            raise _nothing_fits("uniform", budget, bits)
    for budget in initial.allocated:
        if budget < max(bits[0], space.average_bits_range[0]):
            raise _nothing_fits("allocated", budget, bits)


def require_two(first: FirstSet, interval: str) -> None:
    """Require that a first set can be searched from; the interval is as the study names it."""
    if len(first) < 2:
        raise InputError(
            f"{interval} has {len(first)} of the two or more configurations that a study needs;"
            " widen it"
        )


def _nothing_fits(field: str, budget: float, bits: tuple[float, float]) -> InputError:
    return InputError(
        f"search.initial.{field}: no configuration in [{bits[0]:g}, {bits[1]:g}] average bits has"
        f" {budget:g} or fewer"
    )


def _uniform_ladder(
    space: ConfigurationSpace, quantization_error: Floats, bits: tuple[float, float]
) -> Integers:
    """Return the choices inside the interval that are non-dominated in storage bits and mean error.

    Their bits rise.
    """
    searched = list(space.searched)
    parameters = np.array([space.layers[one].parameters for one in searched], dtype=np.float64)
    mean_error = np.average(quantization_error[searched], axis=0, weights=parameters)
    inside = _alike(space, bits)
    points = np.column_stack([mean_error, space.bits_table])[inside]
    best = inside[non_dominated(points)]
    return best[np.argsort(space.bits_table[best], kind="stable")]


def _alike(space: ConfigurationSpace, bits: tuple[float, float]) -> Integers:
    """Return the choices that all layers can take, with average bits inside the interval."""
    inside = (space.bits_table >= bits[0]) & (space.bits_table <= bits[1])
    return np.flatnonzero(inside & space.possible.all(axis=0))


def _levels(space: ConfigurationSpace, ladder: Integers, most: int) -> list[int]:
    """Return the choices of a ladder that have the fewest bits for a value of the first knob.

    Of more than ``most``, some are returned that are spread evenly.
    """
    first = space.to_code(ladder)[:, 0]
    levels = [int(ladder[first == value][0]) for value in dict.fromkeys(first.tolist())]
    places = np.linspace(0, len(levels) - 1, min(most, len(levels))).round().astype(int)
    return [levels[place] for place in places]


class _Members:
    """A first set that grows; a configuration keeps the method that gave it first."""

    def __init__(self, space: ConfigurationSpace, bits: tuple[float, float]) -> None:
        self.by_key: dict[bytes, tuple[str, Integers]] = {}
        self._space = space
        self._bits = bits

    def add(self, method: str, index: Integers) -> None:
        self.by_key.setdefault(index.tobytes(), (method, index))

    def add_uniform(self, choice: int) -> None:
        self.add("uniform", np.full(len(self._space.groups), choice, dtype=np.int64))

    def add_random(self, count: int, generator: np.random.Generator) -> None:
        """Add new random configurations until there are ``count``, or the space is used up."""
        for _ in range(_MAX_DRAWS):
            missing = count - len(self.by_key)
            drawn = sample_configurations(self._space, missing, self._bits, generator)
            for index in drawn[self._space.within(drawn, self._bits)]:
                self.add("random", index)
            if len(self.by_key) >= count:
                break
