"""The mixed-integer space."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from tests.engine.fake_study import INTEGER, NORMAL_FLOAT, bits_of, make_layers, make_space

make_space = cache(make_space)
SPACES = st.builds(
    make_space,
    st.sampled_from([1, 2, 6]),
    st.sampled_from([NORMAL_FLOAT, INTEGER]),
    st.booleans(),
    st.booleans(),
)
SEEDS = st.integers(0, 2**32 - 1)
EACH_SPACE = settings(max_examples=20)


ONE_LAYER = ConfigurationSpace(make_layers(1)[:1], INTEGER, bits_of(INTEGER))


def draw(space: ConfigurationSpace, seed: int, *leading: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(space.choices.size, size=(*leading, len(space.groups)))


@EACH_SPACE
@given(SPACES, SEEDS)
def test_codes_name_the_knobs_values(space: ConfigurationSpace, seed: int) -> None:
    index = draw(space, seed, 3)
    code = space.to_code(index)
    layer = space.choices.layer_configuration(int(index[0, 0]))
    for knob, position in zip(space.choices.knobs, code[0, 0].tolist(), strict=True):
        assert layer[knob.name] == knob.values[position]


@EACH_SPACE
@given(SPACES, SEEDS)
def test_decode_then_encode_is_the_identity(space: ConfigurationSpace, seed: int) -> None:
    index = draw(space, seed)
    configuration = space.decode(index)
    assert list(configuration) == [layer.name for layer in space.layers]
    assert (space.encode(configuration) == index).all()
    for group in space.groups:
        assert len({configuration[space.layers[m].name] for m in group.members}) == 1


@EACH_SPACE
@given(SPACES, SEEDS)
def test_average_bits_equal_exact_arithmetic(space: ConfigurationSpace, seed: int) -> None:
    index = draw(space, seed)
    configuration = space.decode(index)
    total = Fraction(0)
    for layer in space.layers:
        choice = space.choices.index(configuration[layer.name])
        bits = space.shape_bits.get(layer.shape, space.storage_bits)
        total += Fraction(bits[choice]) * layer.parameters
    expected = total / sum(layer.parameters for layer in space.layers)
    # The sum is exact in float64; the one division rounds once.
    assert float(space.average_bits(index)) == float(expected)


@EACH_SPACE
@given(SPACES, SEEDS)
def test_neighbours_stay_in_range_and_differ_in_one_step_of_one_knob(
    space: ConfigurationSpace, seed: int
) -> None:
    index = draw(space, seed)
    groups, choices = space.neighbours(index)
    moved = space.to_code(choices)
    before = space.to_code(index)[groups]
    assert (moved >= 0).all()
    assert (moved < space.sizes).all()
    assert (np.abs(moved - before).sum(axis=1) == 1).all()
    assert len(set(zip(groups.tolist(), choices.tolist(), strict=True))) == len(groups)
    code = space.to_code(index)
    expected = int((code > 0).sum() + (code < space.sizes - 1).sum())
    assert len(groups) == expected


@pytest.mark.parametrize(("blocks", "fused", "groups"), [(6, False, 42), (52, True, 208)])
def test_size_follows_the_model(blocks: int, fused: bool, groups: int) -> None:
    space = make_space(blocks, fused=fused)
    assert len(space.groups) == groups
    assert space.variables == 5 * groups
    assert space.group_parameters.sum() == sum(layer.parameters for layer in space.layers)


def test_configuration_of_another_model_is_refused() -> None:
    space, other = make_space(1), make_space(2)
    with pytest.raises(InputError, match="differ in the layers"):
        space.encode(other.decode(draw(other, 0)))


def test_tied_layers_that_differ_are_refused() -> None:
    space = make_space(1, INTEGER, fused=True)
    layers = dict(space.decode(np.zeros(len(space.groups), dtype=np.int64)))
    layers["layers.0.key"] = LayerConfiguration({"bits": 8, "group_size": 32, "symmetric": "yes"})
    with pytest.raises(InputError, match="tied layers must share"):
        space.encode(Configuration(layers))


@pytest.mark.parametrize("index", [np.array([0]), np.full(7, -1), np.full(7, 432)])
def test_indices_out_of_range_are_refused(index: np.ndarray) -> None:
    with pytest.raises(InputError, match="choice indices"):
        make_space(1).decode(index)


def test_space_needs_layers_and_bits_of_each_choice() -> None:
    with pytest.raises(InputError, match="at least one quantizable layer"):
        ConfigurationSpace((), INTEGER, (1.0,) * INTEGER.size)
    with pytest.raises(InputError, match="storage bits of 1"):
        ConfigurationSpace(make_layers(1), INTEGER, (1.0,))
    with pytest.raises(InputError, match="storage bits of 2"):
        ConfigurationSpace(make_layers(1), INTEGER, bits_of(INTEGER), (), {(384, 384): (1.0, 2.0)})


@EACH_SPACE
@given(SPACES)
def test_average_bits_lie_between_those_of_the_least_and_the_greatest_choices(
    space: ConfigurationSpace,
) -> None:
    alike = np.arange(space.choices.size)[:, None].repeat(len(space.groups), axis=1)
    assert space.average_bits(alike).tolist() == space.bits_table.tolist()
    assert space.average_bits_range == (space.bits_table.min(), space.bits_table.max())


def test_tied_layers_of_unlike_shapes_share_the_mean_of_their_bits() -> None:
    gate, _, down = make_layers(1)[4:]
    bits = {gate.shape: (2.0,) * INTEGER.size, down.shape: (4.0,) * INTEGER.size}
    space = ConfigurationSpace((gate, down), INTEGER, bits_of(INTEGER), (("gate", "down"),), bits)
    assert space.group_bits.tolist() == [[3.0] * INTEGER.size]


# Layers that cannot take every choice

SOME = (0, 1, 6, 7)
"""The choices of 2 and of 8 bits."""


def restricted(**choices: tuple[int, ...]) -> ConfigurationSpace:
    """A space of integers, in which layers of some roles take some choices alone."""
    shapes = {layer.shape: choices[layer.role] for layer in make_layers(1) if layer.role in choices}
    return replace(make_space(1, INTEGER), shape_choices=shapes)


def test_a_configuration_gives_each_layer_what_it_takes() -> None:
    space = restricted(down=SOME)
    index = np.full(len(space.groups), 3)
    for refused in (space.decode, lambda _: space.encode(make_space(1, INTEGER).decode(index))):
        with pytest.raises(InputError, match=r"\['layers.0.down'\] cannot take .*bits=3"):
            refused(index)
    index[-1] = 7
    assert (space.encode(space.decode(index)) == index).all()


def test_steps_pass_over_what_a_layer_cannot_take() -> None:
    space = restricted(down=SOME)
    last = len(space.groups) - 1
    groups, choices = space.neighbours(np.full(len(space.groups), 6))
    # From 8 bits in groups of 32: 2 bits are next, and groups of 64; others go to 4 bits.
    assert choices[groups == last].tolist() == [0, 7]
    assert choices[groups == 0].tolist() == [4, 7]
    groups, choices = space.neighbours(np.zeros(len(space.groups), dtype=np.int64))
    assert choices[groups == last].tolist() == [6, 1]


def test_average_bits_lie_between_those_of_what_layers_take() -> None:
    space, free = restricted(down=(2, 3)), make_space(1, INTEGER)
    for end, of_down, bits in zip((0, 1), (3.25, 3.5), (2.25, 8.5), strict=True):
        share = space.group_share[-1]
        assert space.average_bits_range[end] == share * of_down + (1 - share) * bits
        assert free.average_bits_range[end] == bits


def test_tied_layers_take_what_all_of_them_take() -> None:
    space = replace(restricted(gate=(0, 1, 2), down=(1, 2, 3)), fused_roles=(("gate", "down"),))
    tied = next(row for row in space.possible if not row.all() and row[1])
    assert np.flatnonzero(tied).tolist() == [1, 2]
    with pytest.raises(InputError, match=r"\['layers.0.gate', 'layers.0.down'\]"):
        replace(restricted(gate=(0,), down=(1,)), fused_roles=(("gate", "down"),))
