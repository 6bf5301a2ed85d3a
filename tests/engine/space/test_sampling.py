"""Random configurations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from tests.engine.fake_study import INTEGER, NORMAL_FLOAT, bits_of, make_layers, make_space

SPACE = make_space(2)
ONE_LAYER = ConfigurationSpace(make_layers(1)[:1], INTEGER, bits_of(INTEGER))


def sampled(
    space: ConfigurationSpace, count: int, bits: tuple[float, float], seed: int = 0
) -> Integers:
    return sample_configurations(space, count, bits, np.random.default_rng(seed))


@pytest.mark.parametrize("shaped", [False, True])
def test_configurations_are_uniform_over_average_bits(shaped: bool) -> None:
    space = make_space(6, shaped=shaped)
    uniform = stats.uniform(2.25, 5.0).cdf
    drawn = space.average_bits(sampled(space, 300, (2.25, 7.25), seed=1))
    assert stats.kstest(drawn, uniform).pvalue > 0.01
    # Drawing knobs uniformly fails the same test: it crowds the middle.
    choices = np.random.default_rng(1).integers(space.choices.size, size=(300, len(space.groups)))
    assert stats.kstest(space.average_bits(choices), uniform).pvalue < 1e-6


@settings(max_examples=10)
@given(
    st.builds(
        make_space,
        st.sampled_from([1, 2, 6]),
        st.sampled_from([NORMAL_FLOAT, INTEGER]),
        shaped=st.booleans(),
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(2.0, 3.0), (3.0, 3.5), (8.0, 9.0)]),
)
def test_configurations_stay_in_their_interval(
    space: ConfigurationSpace, seed: int, bits: tuple[float, float]
) -> None:
    assert space.within(sampled(space, 4, bits, seed), bits).all()


def test_an_interval_that_holds_nothing_gives_configurations_outside_it() -> None:
    drawn = sampled(ONE_LAYER, 3, (5.0, 8.0))
    assert drawn.shape == (3, 1)
    assert not ONE_LAYER.within(drawn, (5.0, 8.0)).any()


def test_configurations_depend_on_the_generator_alone() -> None:
    first, again, other = (sampled(SPACE, 5, (3, 5), seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_bits_that_are_the_same_for_each_shape_change_no_draw() -> None:
    bits = {layer.shape: SPACE.storage_bits for layer in SPACE.layers}
    same = replace(SPACE, storage_bits=(1.0,) * SPACE.choices.size, shape_bits=bits)
    assert (sampled(same, 5, (3, 5)) == sampled(SPACE, 5, (3, 5))).all()


def test_layers_get_what_they_take_up_to_both_ends() -> None:
    space = replace(make_space(1, INTEGER), shape_choices={(384, 1536): (0, 5)})
    least, greatest = space.average_bits_range
    drawn = sampled(space, 40, (least, greatest))
    assert space.possible[np.arange(len(space.groups)), drawn].all()
    assert set(drawn[:, -1].tolist()) == {0, 5}
    assert space.average_bits(sampled(space, 1, (0, least))) == pytest.approx(least)
    assert space.average_bits(sampled(space, 1, (greatest, 99))) == pytest.approx(greatest)


def test_configurations_reach_both_ends_of_the_space() -> None:
    least, greatest = SPACE.average_bits_range
    assert SPACE.average_bits(sampled(SPACE, 1, (0, least))) == pytest.approx(least)
    assert SPACE.average_bits(sampled(SPACE, 1, (greatest, 99))) == pytest.approx(greatest)


@pytest.mark.parametrize("bits", [(0.5, 1.0), (9.0, 12.0)])
def test_an_interval_outside_the_space_is_refused(bits: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="outside the space's"):
        sampled(SPACE, 1, bits)
