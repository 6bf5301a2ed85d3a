"""What every peer of the search benchmark must do, on a small additive objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.search_methods import PEERS, Peer, Problem, Proposals, run_peer
from benchmarks.search_methods.amq import AMQSettings
from benchmarks.search_methods.evopress import EvoPressSettings, evopress_peer
from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.allocation import allocate
from qsearch.search.pareto import hypervolume
from qsearch.space.configuration import Choices, Knob
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from tests.engine.fake_study import NORMAL_FLOAT, bits_of, make_layers, uniform

BITS = (2.25, 7.25)
REFERENCE = (1.0, 7.25)
SLOW = {"ax", "ax-one-restart", "optuna-gp"}
EACH = pytest.mark.parametrize("name", list(PEERS))


pytestmark = pytest.mark.usefixtures("fake_plugins")  # They keep PyTorch on one core.

LAYERS = tuple(layer for layer in make_layers(1) if layer.role != "gate")
SPACE = ConfigurationSpace(LAYERS, NORMAL_FLOAT, bits_of(NORMAL_FLOAT))
TWO_KNOBS = Choices((Knob("bits", (2, 3, 4, 8)), Knob("group_size", (16, 32, 64))))
FEW = ConfigurationSpace(LAYERS, TWO_KNOBS, bits_of(TWO_KNOBS))
SENSITIVITY = np.array([0.02, 0.05, 0.01, 0.1, 1.0, 0.3])


def problem(
    start: int = 0, space: ConfigurationSpace = SPACE, bits: tuple[float, float] = BITS
) -> Problem:
    """Scores that fall fourfold a bit, times sensitivity, and random configurations known."""
    scores = SENSITIVITY[:, None] * 4.0 ** (2 - space.bits_table)[None]
    known = sample_configurations(space, start, bits, np.random.default_rng(start))
    unknown = sample_configurations(space, 0, bits, np.random.default_rng(0))
    cold = Problem(space, bits, unknown, np.zeros(0), scores, REFERENCE)
    return replace(cold, start=known, start_loss=np.array([loss(cold)(row) for row in known]))


def problem_of(name: str, start: int = 0) -> Problem:
    """With two knobs instead of five for the peers that take seconds a candidate."""
    return problem(start, FEW if name in SLOW else SPACE)


def loss(given_problem: Problem) -> Callable[[Integers], float]:
    """The objective, for which the scores are the truth."""

    def evaluate(index: Integers) -> float:
        return 0.3 + float(given_problem.scores[np.arange(len(index)), index].sum())

    return evaluate


def run(
    peer: Peer, given_problem: Problem, evaluations: int, seed: int = 0
) -> tuple[Integers, Floats]:
    generator = np.random.default_rng(seed)
    return run_peer(peer, given_problem, loss(given_problem), evaluations, generator)


def volume(found: Integers, losses: Floats) -> float:
    return hypervolume(np.column_stack([losses, SPACE.average_bits(found)]), REFERENCE)


pytestmark = pytest.mark.usefixtures("uncompiled")

EVALUATIONS = {"ax": 6, "ax-one-restart": 6, "optuna-gp": 11, "allocated": 12}
"""Of peers that take long; just past their random phase."""


@pytest.fixture(scope="module")
def cold(uncompiled: None) -> dict[str, tuple[Integers, Floats]]:
    """What each peer proposes without a start, and the losses."""
    return {
        name: run(peer, problem_of(name), EVALUATIONS.get(name, 35)) for name, peer in PEERS.items()
    }


Cold = dict[str, tuple[Integers, Floats]]


@EACH
def test_a_peer_proposes_as_many_distinct_configurations_inside_as_asked_for(
    name: str, cold: Cold
) -> None:
    index, _ = cold[name]
    assert len(np.unique(index, axis=0)) == EVALUATIONS.get(name, 35)
    assert problem_of(name).space.within(index, BITS).all()


@EACH
def test_the_same_generator_gives_the_same_proposals(name: str, cold: Cold) -> None:
    count = 3 if name.startswith("ax") else len(cold[name][0])
    again, _ = run(PEERS[name], problem_of(name), count)
    assert np.array_equal(cold[name][0][:count], again)


@pytest.mark.parametrize("name", ["random", "optuna-tpe", "optuna-nsga2", "evopress", "amq"])
def test_another_seed_gives_other_proposals(name: str, cold: Cold) -> None:
    other, _ = run(PEERS[name], problem_of(name), 11, seed=1)
    assert not np.array_equal(cold[name][0][:11], other)


@EACH
def test_start_configurations_are_never_proposed_again(name: str, cold: Cold) -> None:
    known, losses = (values[:5] for values in cold[name])
    warm = replace(problem_of(name), start=known, start_loss=losses)
    found, _ = run(PEERS[name], warm, 1 if name.startswith("ax") else 3)
    assert not {row.tobytes() for row in found} & {row.tobytes() for row in known}


@pytest.mark.parametrize(
    "name", ["ax-one-restart", "optuna-tpe", "optuna-nsga2", "optuna-gp", "evopress", "amq"]
)
def test_what_is_proposed_depends_on_the_losses_of_the_start(name: str) -> None:
    known = problem_of(name, start=6 if name == "ax-one-restart" else 30)
    other = replace(known, start_loss=known.start_loss.max() - known.start_loss)
    # Ax begins with the centre of the space whatever it knows, EvoPress with a parent a budget,
    # NSGA-II with a population.
    count = {"ax-one-restart": 2, "optuna-gp": 2, "optuna-nsga2": 40, "evopress": 40}.get(name, 3)
    assert not np.array_equal(run(PEERS[name], known, count)[0], run(PEERS[name], other, count)[0])


@pytest.mark.parametrize("name", sorted(set(PEERS) - SLOW))
def test_a_peer_ends_when_a_small_space_is_used_up(name: str) -> None:
    choices = Choices((Knob("bits", (2, 3)), Knob("group_size", (32,))))
    fused = (("query", "key", "value"), ("up", "down"))
    space = ConfigurationSpace(LAYERS, choices, bits_of(choices), fused)
    small = replace(
        problem(),
        space=space,
        bits=(2.0, 4.0),
        start=np.zeros((0, 3), dtype=np.int64),
        scores=4.0 ** -space.bits_table[None].repeat(3, axis=0),
    )
    assert 1 <= len(run(PEERS[name], small, 100)[0]) <= 2**3


@pytest.mark.parametrize("name", sorted(set(PEERS) - SLOW))
def test_proposals_of_a_narrow_interval_stay_inside(name: str) -> None:
    narrow = problem(bits=(2.9, 3.1))
    found, _ = run(PEERS[name], narrow, 3)
    assert SPACE.within(found, narrow.bits).all()


# Uniform and allocator


def test_uniform_quantizes_all_layers_alike_and_first_spans_the_interval(cold: Cold) -> None:
    assert (cold["uniform"][0] == cold["uniform"][0][:, :1]).all()
    bits = SPACE.average_bits(cold["uniform"][0][:2])
    assert bits.min() < 2.6
    assert bits.max() > 4.5  # no layer configuration lies between 4.7 and 8 bits


def test_the_allocators_front_beats_uniform_where_scores_are_the_truth(cold: Cold) -> None:
    count = EVALUATIONS["allocated"]
    allocated, *others = (
        volume(*(values[:count] for values in cold[name]))
        for name in ("allocated", "uniform", "random")
    )
    assert allocated > max(others)


# EvoPress


def run_evopress(
    budgets: int, evaluations: int, given_problem: Problem | None = None
) -> tuple[Integers, Floats]:
    peer = partial(evopress_peer, settings=EvoPressSettings(budgets=budgets))
    return run(peer, given_problem or problem(), evaluations)


def test_evopress_first_evaluates_a_parent_just_under_each_budget() -> None:
    found, _ = run_evopress(5, 5)
    below = np.array([2.75, 3.75, 4.75, 5.75, 6.75]) - SPACE.average_bits(found)
    assert (below >= 0).all()
    assert (below < 1).all()


def test_evopress_begins_with_the_allocators_solution_where_that_is_known() -> None:
    parent = allocate(SPACE, problem().scores, 4.75)
    known = replace(problem(), start=parent[None], start_loss=np.array([loss(problem())(parent)]))
    found, _ = run_evopress(1, 20, known)
    assert ((found == parent).sum(axis=1) >= 1).mean() > 0.5


def test_evopress_breeds_from_the_fittest_within_its_budget_and_lowers_the_loss() -> None:
    found, losses = run_evopress(1, 60)
    assert SPACE.average_bits(found).max() <= np.mean(BITS)
    changed = (found[5:9] != found[losses[:5].argmin()]).sum(axis=1)
    assert (changed <= EvoPressSettings().changes).all()
    assert (changed >= 1).all()
    assert losses.min() < losses[0]


# AMQ


def test_amq_begins_with_both_ends_of_the_interval(cold: Cold) -> None:
    bits = SPACE.average_bits(cold["amq"][0][:2])
    assert bits[0] < 3
    assert bits[1] > 6.5


def test_amq_gains_more_from_its_predictor_than_from_chance(cold: Cold) -> None:
    found, losses = cold["amq"]
    initial = AMQSettings().initial
    drawn, drawn_losses = run(PEERS["random"], problem(), len(found) - initial, seed=1)
    by_chance = (
        np.concatenate([found[:initial], drawn]),
        np.concatenate([losses[:initial], drawn_losses]),
    )
    assert volume(found, losses) > volume(*by_chance)


# What peers share


@pytest.mark.parametrize(("bits", "count"), [(4.0, 2), (8.0, 1)], ids=["again", "outside"])
def test_a_peer_that_repeats_itself_or_leaves_the_interval_is_an_error(
    bits: float, count: int
) -> None:
    def stuck(given_problem: Problem, generator: np.random.Generator) -> Proposals:
        while True:
            yield uniform(given_problem.space, bits)

    with pytest.raises(InputError, match="known or outside"):
        run(stuck, problem(), count)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("start", np.zeros((2, 3), dtype=np.int64), "start must have shape"),
        ("start_loss", np.array([np.nan]), "start_loss"),
        ("scores", np.zeros((6, 3)), "scores"),
        ("bits", (4.0, 3.0), "interval"),
    ],
)
def test_a_problem_that_does_not_fit_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(problem(), **{field: value})
