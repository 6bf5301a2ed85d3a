"""Layers that a study pins: out of the search, and counted in every size."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.claims.claims import baselines
from qsearch.errors import InputError
from qsearch.plugins.components import build_components
from qsearch.plugins.footprint import Footprint
from qsearch.search.allocation import allocate, relaxed_allocations
from qsearch.search.initial_set import initial_configurations
from qsearch.search.layer_scores import error_scores
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.checking import check_study
from qsearch.study.file_bytes import FileBytes
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    INTEGER,
    SMALL,
    bits_of,
    errors_of,
    make_layers,
    shape_bits_of,
    study_spec,
)

EIGHT = LayerConfiguration({"bits": 8, "group_size": 32, "symmetric": "yes"})
THREE = LayerConfiguration({"bits": 3, "group_size": 64, "symmetric": "yes"})
LAYERS = make_layers(1)[3:]
WHOLE = ConfigurationSpace(LAYERS, INTEGER, bits_of(INTEGER))
SPACE = ConfigurationSpace(
    LAYERS, INTEGER, bits_of(INTEGER), pinned={LAYERS[1].name: EIGHT, LAYERS[0].name: THREE}
)
SHAPED = ConfigurationSpace(
    LAYERS, INTEGER, bits_of(INTEGER), (), shape_bits_of(INTEGER), pinned={LAYERS[2].name: EIGHT}
)
EACH_SPACE = st.sampled_from([SPACE, SHAPED])
SEEDS = st.integers(0, 10**6)
FIXED = {"block.0.key": {"bits": 8, "group_size": 32}, "*.value": {"bits": 2, "group_size": 64}}


def draw(space: ConfigurationSpace, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(space.choices.size, size=len(space.groups))


@settings(max_examples=20)
@given(SEEDS)
def test_configurations_hold_pinned_layers_and_groups_do_not(seed: int) -> None:
    index = draw(SPACE, seed)
    configuration = SPACE.decode(index)
    assert list(configuration) == [layer.name for layer in LAYERS]
    assert (configuration[LAYERS[1].name], configuration[LAYERS[0].name]) == (EIGHT, THREE)
    assert [group.members for group in SPACE.groups] == [(2,), (3,)][: len(SPACE.groups)]
    assert (SPACE.encode(configuration) == index).all()


def test_another_layer_configuration_of_a_pinned_layer_is_not_of_the_space() -> None:
    other = dict(SPACE.decode(draw(SPACE, 0))) | {LAYERS[1].name: THREE}
    with pytest.raises(InputError, match=r"'layers\.0\.\w+' is pinned to .* 8, .*, not .*: 3"):
        SPACE.encode(other)


def test_a_layer_is_pinned_to_what_its_shape_takes() -> None:
    taken = {LAYERS[1].shape: (INTEGER.index(EIGHT), 0)}
    assert replace(SPACE, shape_choices=taken).pinned == SPACE.pinned
    with pytest.raises(InputError, match=r"space\.fixed: 'layers\.0\.\w+' cannot take .*bits=8"):
        replace(SPACE, shape_choices={LAYERS[1].shape: (0, 1)})


@settings(max_examples=20)
@given(EACH_SPACE, SEEDS)
def test_pinned_layers_count_in_average_bits(space: ConfigurationSpace, seed: int) -> None:
    index = draw(space, seed)
    whole = ConfigurationSpace(LAYERS, INTEGER, space.storage_bits, (), space.shape_bits)
    same = whole.average_bits(whole.encode(space.decode(index)))
    assert float(space.average_bits(index)) == pytest.approx(float(same), abs=1e-12)
    least, greatest = space.average_bits_range
    assert least - 1e-12 <= same <= greatest + 1e-12
    alike = np.full(len(space.groups), index[0])
    assert space.bits_table[index[0]] == pytest.approx(float(space.average_bits(alike)))


@pytest.mark.parametrize("choice", range(INTEGER.size))
def test_layers_alike_have_their_own_bits_exactly(choice: int) -> None:
    layers, one = make_layers(3), INTEGER.layer_configurations[choice]
    for count in range(1, len(layers)):
        pinned = {layer.name: one for layer in layers[:count]}
        space = ConfigurationSpace(layers, INTEGER, bits_of(INTEGER), pinned=pinned)
        average = space.average_bits(np.full(len(space.groups), choice))
        assert average == space.bits_table[choice] == bits_of(INTEGER)[choice]


@settings(max_examples=10)
@given(EACH_SPACE, SEEDS, st.floats(0, 1))
def test_allocations_keep_a_budget_of_all_layers(
    space: ConfigurationSpace, seed: int, place: float
) -> None:
    least, greatest = space.average_bits_range
    budget = least + place * (greatest - least)
    shape = len(space.groups), space.choices.size
    scores = np.random.default_rng(seed).lognormal(0, 2, shape)
    everything = np.array(list(itertools.product(range(shape[1]), repeat=shape[0])))
    inside = everything[space.average_bits(everything) <= budget]
    best = scores[np.arange(shape[0]), inside].sum(axis=1).min() if len(inside) else np.inf
    index = allocate(space, scores, budget)
    assert float(space.average_bits(index)) <= budget + 1e-12
    assert scores[np.arange(shape[0]), index].sum() <= best * (1 + 2e-4) + 1e-6 * scores.max()
    for relaxed in relaxed_allocations(space, scores, [budget]):
        assert float(space.average_bits(relaxed)) <= budget + 1e-12


@settings(max_examples=10)
@given(EACH_SPACE, SEEDS)
def test_samples_are_spread_over_average_bits_of_all_layers(
    space: ConfigurationSpace, seed: int
) -> None:
    low, high = space.average_bits_range
    bits = (low + 0.3 * (high - low), high - 0.2 * (high - low))
    drawn = sample_configurations(space, 20, bits, np.random.default_rng(seed))
    assert space.within(drawn, bits).mean() > 0.8


def test_uniform_configurations_are_of_the_searched_layers() -> None:
    errors = errors_of(WHOLE)
    errors[:2] = 0  # Whatever pinned layers would lose says nothing of the others.
    scores, bits = error_scores(SPACE, errors), SPACE.average_bits_range
    rows = initial_configurations(SPACE, errors, scores, 12, bits, _generator())
    uniform = [SPACE.decode(index) for method, index in rows if method == "uniform"]
    assert len(uniform) > 2
    for configuration in uniform:
        assert len({configuration[layer.name] for layer in LAYERS[2:]}) == 1
        assert configuration[LAYERS[1].name] == EIGHT


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_pinned_layers_count_in_bytes() -> None:
    components = build_components(study_spec(**SMALL, space__fixed=FIXED))
    whole = build_components(study_spec(**SMALL))
    footprint = Footprint(whole.space.parameters, 1000, 200)
    index = draw(components.space, 1)
    same = whole.space.encode(components.space.decode(index))
    own = FileBytes(components.space, components.quantizer, footprint)
    assert own(index) == FileBytes(whole.space, whole.quantizer, footprint)(same)
    low, high = own.average_bits((int(own(index)) - 40, int(own(index)) + 400))
    assert low <= components.space.average_bits(index) <= high


def test_a_study_pins_layers_in_all_its_configurations(tmp_path: Path) -> None:
    spec = study_spec(**SMALL, space__fixed=FIXED)
    lines = dict(check_study(spec, "my.yaml"))
    assert lines["space"].startswith("4 variables in 2 groups")
    assert "2 layers are pinned by space.fixed, with 29% of the weights" in lines["space"]
    record = run_spec(spec, tmp_path)
    assert record.pinned == ("block.0.value", "block.0.key")
    for _, row in record.trials.iterrows():
        configuration = row_configuration(row)
        assert configuration["block.0.key"] == LayerConfiguration(
            {"bits": 8, "group_size": 32, "scheme": "symmetric"}
        )
        assert configuration["block.0.value"]["bits"] == 2
    names = list(baselines(read_study(tmp_path)))
    assert names == sorted(names)
    assert len(set(names)) > 1
    changed = study_spec(**SMALL, space__fixed={"*.key": {"bits": 4, "group_size": 32}})
    with pytest.raises(InputError, match=r"space\.fixed\..*key.*; run the same study to resume"):
        run_spec(changed, tmp_path)


def test_the_first_pattern_that_matches_counts() -> None:
    fixed = {"block.0.*": {"bits": 8, "group_size": 32}, "*.key": {"bits": 2, "group_size": 64}}
    space = build_components(study_spec(space__fixed=fixed)).space
    assert space.pinned["block.0.key"]["bits"] == 8
    assert space.pinned["block.1.key"]["bits"] == 2
