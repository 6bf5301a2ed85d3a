"""The first set of configurations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.search.allocation import allocate
from qsearch.search.initial_set import (
    initial_configurations,
    most_uniform,
    named_configurations,
    require_two,
)
from qsearch.search.layer_scores import error_scores
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.spec.search_spec import InitialSpec
from tests.engine.fake_study import INTEGER, errors_of, make_space

SPACE = make_space(2, INTEGER)
WHOLE = make_space(1, INTEGER)
ONE_LAYER = ConfigurationSpace(WHOLE.layers[:1], INTEGER, WHOLE.storage_bits)
ERRORS = errors_of(SPACE)
SCORES = error_scores(SPACE, ERRORS)


@cache
def first_set(
    count: int,
    seed: int = 0,
    bits: tuple[float, float] = (2.25, 7.25),
    space: ConfigurationSpace = SPACE,
) -> list[tuple[str, Integers]]:
    generator = np.random.default_rng(seed)
    return initial_configurations(
        space, errors_of(space), error_scores(space, errors_of(space)), count, bits, generator
    )


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (7, 1), (24, 0)])
def test_holds_as_many_distinct_configurations_as_asked(count: int, seed: int) -> None:
    chosen = first_set(count, seed)
    assert len(chosen) == count
    assert len({index.tobytes() for _, index in chosen}) == count


def test_a_third_is_uniform_a_third_allocated_and_the_rest_random() -> None:
    chosen = first_set(24)
    methods = [method for method, _ in chosen]
    order = ("uniform", "allocated", "random")
    assert methods == [method for method in order for _ in range(methods.count(method))]
    assert 4 <= methods.count("uniform") <= 8
    assert 6 <= methods.count("allocated") <= 8
    for method, index in chosen:
        assert (len(set(index.tolist())) == 1) == (method == "uniform")


def test_uniform_ones_are_of_what_all_layers_take() -> None:
    space = replace(SPACE, shape_choices={(384, 1536): (0, 1, 4)})
    chosen = first_set(24, space=space)
    assert {int(one[0]) for method, one in chosen if method == "uniform"} <= {0, 1, 4}
    places = np.arange(len(space.groups))
    assert all(space.possible[places, index].all() for _, index in chosen)
    assert most_uniform(space, 24, None) == 3


@pytest.mark.parametrize(("count", "levels"), [(24, [2, 3, 4]), (4, [2, 4])])
def test_uniform_ones_have_the_fewest_bits_of_each_level(count: int, levels: list[int]) -> None:
    uniform = [int(index[0]) for method, index in first_set(count) if method == "uniform"]
    chosen = [INTEGER.layer_configurations[choice] for choice in uniform]
    # Groups of 64 take fewer bits than those of 32; 8 bits are outside the interval.
    assert [one["bits"] for one in chosen if one["group_size"] == 64][: len(levels)] == levels


def test_allocated_ones_spread_and_no_other_has_less_error_in_as_few_bits() -> None:
    chosen = first_set(24)
    groups = np.arange(len(SPACE.groups))
    everything = np.array([index for _, index in chosen])
    error = SCORES[groups, everything].sum(axis=1)
    bits = SPACE.average_bits(everything)
    allocated = [row for row, (method, _) in enumerate(chosen) if method == "allocated"]
    for row in allocated:
        assert error[row] <= error[bits <= bits[row]].min() * (1 + 1e-3)
    counts, _ = np.histogram(bits[allocated], bins=4, range=(2.25, 7.25))
    assert (counts > 0).all()


def test_what_is_wanted_is_allocated_first() -> None:
    generator = np.random.default_rng(0)
    wanted = [2.6, 3.1, 4.4, 5.2]
    rows = initial_configurations(SPACE, ERRORS, SCORES, 7, (2.25, 7.25), generator, wanted)
    allocated = [index.tolist() for method, index in rows if method == "allocated"]
    assert allocated == [allocate(SPACE, SCORES, budget).tolist() for budget in wanted]
    assert len(rows) == 7


def test_depends_on_the_generator_alone() -> None:
    generator = np.random.default_rng(1)
    again = initial_configurations(SPACE, ERRORS, SCORES, 7, (2.25, 7.25), generator)
    other = initial_configurations(SPACE, ERRORS, SCORES, 7, (2.25, 7.25), generator)
    sets = (first_set(7, 1), again, other)
    first, same, new = (np.stack([index for _, index in each]) for each in sets)
    assert (first == same).all()
    assert (first != new).any()


def test_a_small_space_gives_what_it_holds() -> None:
    assert 6 <= len(first_set(50, space=ONE_LAYER, bits=(2.0, 9.0))) <= 8


@pytest.mark.parametrize("bits", [(2.25, 7.25), (3.1, 3.2), (1.0, 2.4)])
def test_all_stay_in_the_interval(bits: tuple[float, float]) -> None:
    for _, index in first_set(12, bits=bits):
        assert bits[0] - 1e-9 <= float(SPACE.average_bits(index)) <= bits[1] + 1e-9


def test_a_coarse_space_gives_only_what_lies_in_the_interval() -> None:
    # Layer configurations of 2.25, 2.5, 3.25, 3.5, 4.25, 4.5, 8.25 and 8.5 bits, one layer.
    first = first_set(6, bits=(3, 4), space=ONE_LAYER)
    assert sorted(float(ONE_LAYER.average_bits(index)) for _, index in first) == [3.25, 3.5]


def test_an_interval_that_holds_nothing_is_refused() -> None:
    empty = first_set(6, bits=(5, 8), space=ONE_LAYER)
    with pytest.raises(InputError, match=r"mine: \[5, 8\] has 0 of the two or more configurations"):
        require_two(empty, "mine: [5, 8]")
    require_two(first_set(6, bits=(3, 4), space=ONE_LAYER), "mine: [3, 4]")


def named(**fields: object) -> list[tuple[str, Integers]]:
    generator = np.random.default_rng(0)
    initial = InitialSpec.model_validate(fields)
    return named_configurations(SPACE, ERRORS, SCORES, initial, (2.25, 7.25), generator)


def test_named_uniform_ones_have_the_least_error_within_their_budgets() -> None:
    chosen = named(uniform=[2.6, 4.3])
    for (method, index), budget in zip(chosen, (2.6, 4.3), strict=True):
        assert method == "uniform"
        assert (index == index[0]).all()
        fitting = (SPACE.bits_table <= budget) & (SPACE.bits_table >= 2.25)
        assert ERRORS[:, index[0]].mean() == ERRORS[:, fitting].mean(axis=0).min()


def test_named_allocated_ones_are_the_allocators() -> None:
    (method, index), _ = named(allocated=[3.0, 5.0])
    assert method == "allocated"
    assert np.array_equal(index, allocate(SPACE, SCORES, 3.0))


def test_for_each_value_of_a_knob_there_are_allocations_with_that_value_alone() -> None:
    """Within the same budgets, as far as they can be met."""
    generator = np.random.default_rng(0)
    initial = InitialSpec(allocated=[2.5, 3.0], uniform=[4.3])
    plain, found = (
        named_configurations(SPACE, ERRORS, SCORES, initial, (2.25, 7.25), generator, knobs)
        for knobs in ((), ("bits",))
    )
    assert [(method, index.tolist()) for method, index in found[: len(plain)]] == [
        (method, index.tolist()) for method, index in plain
    ]
    alone = [index for method, index in found[len(plain) :] if method == "allocated"]
    bits = [{one["bits"] for one in SPACE.decode(index).values()} for index in alone]
    assert bits
    assert all(own == {2} for own in bits)  # 3 bits and more take more than 3.0.
    assert SPACE.average_bits(np.array(alone)).max() <= 3.0


def test_allocations_of_single_values_leave_the_count_as_it_is() -> None:
    generator = np.random.default_rng(0)
    rows = initial_configurations(
        SPACE, ERRORS, SCORES, 12, (2.25, 7.25), generator, by_value=("bits",)
    )
    assert len(rows) == 12
    alone = [
        index
        for method, index in rows
        if method == "allocated" and len({c["bits"] for c in SPACE.decode(index).values()}) == 1
    ]
    assert alone


@pytest.mark.parametrize("field", ["uniform", "allocated"])
def test_a_budget_that_nothing_fits_is_refused_by_name(field: str) -> None:
    with pytest.raises(InputError, match=rf"search\.initial\.{field}: .* has 2 or fewer"):
        named(**{field: [2.0, 3.0]})


def test_a_named_set_of_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="two configurations"):
        InitialSpec(uniform=(3.0,))
