"""The search for the configurations most worth evaluating."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import (
    Improvement,
    acquisition,
    log_expected_hypervolume_improvement,
)
from qsearch.search.allocation import relaxed_allocations
from qsearch.search.candidate_pool import Evaluated, SearchSettings, candidate_pool
from qsearch.search.layer_scores import weighted_scores
from qsearch.search.local_search import moved
from qsearch.search.next_candidate import next_candidate
from qsearch.search.pareto import (
    front,
    hypervolume,
    reference_point,
    segment_edges,
    segment_of,
)
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate
from tests.engine.fake_study import INTEGER, errors_of, make_space

SPACE = make_space(2, INTEGER)
GROUPS = len(SPACE.groups)
BITS = (2.5, 6.0)
EDGES = segment_edges(BITS, 14)
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(GROUPS))
# What was measured of the sensitivities is off by a factor of about two.
MEASURED = SENSITIVITY * np.random.default_rng(1).lognormal(0, 0.7, GROUPS)
SCORES = weighted_scores(SPACE, errors_of(SPACE), MEASURED)
NONE = np.zeros((0, GROUPS), dtype=np.int64)
DEFAULT = SearchSettings()
NO_EMPTY = SearchSettings(empty_segment_share=0)


def losses_of(index: Integers) -> Floats:
    return np.asarray(0.3 + errors_of(SPACE)[np.arange(GROUPS), index] @ SENSITIVITY)


INDEX = sample_configurations(SPACE, 12, BITS, np.random.default_rng(1))
EVALUATED = Evaluated(INDEX, losses_of(INDEX), NONE)


@cache
def fitted() -> Surrogate:
    return fit_surrogate(score_features(SPACE, SCORES), INDEX, EVALUATED.loss)


@cache
def pool_of(failed: int = 0) -> tuple[Evaluated, Integers]:
    """What is evaluated, with ``failed`` configurations that failed, and the pool after it."""
    exclude = sample_configurations(SPACE, failed, BITS, np.random.default_rng(50))
    evaluated = replace(EVALUATED, exclude=exclude)
    return evaluated, candidate_pool(fitted(), SPACE, evaluated, BITS, np.random.default_rng(0))


def score_within(bits: tuple[float, float]) -> Improvement:
    return acquisition(fitted(), SPACE, INDEX, EVALUATED.loss, bits)


def propose(
    count: int, edges: Floats = EDGES, settings: SearchSettings = DEFAULT, failed: int = 0
) -> Integers:
    """Choose candidates one after another, as a round does."""
    evaluated, pool = pool_of(failed)
    pending = NONE
    for _ in range(count):
        found = next_candidate(fitted(), SPACE, evaluated, pool, pending, BITS, edges, settings)
        assert found is not None
        pending = np.concatenate([pending, found[None]])
    return pending


def keys(index: Integers) -> set[bytes]:
    return {row.tobytes() for row in index}


def segments(index: Integers) -> Integers:
    return segment_of(SPACE.average_bits(index), EDGES)


def test_reference_point_is_a_tenth_beyond_the_worst_loss() -> None:
    reference = reference_point(np.array([1.0, 3.0, 2.0]), (2.0, 5.0))
    assert reference == pytest.approx((3.2, 5.0))
    assert reference[1] > 5.0
    assert reference_point(np.array([1.0]), (2.0, 5.0))[0] > 1.0


# Acquisition


def test_score_is_the_improvement_over_the_front_of_posterior_means() -> None:
    points = sample_configurations(SPACE, 20, BITS, np.random.default_rng(9))
    means, _ = fitted().predict(INDEX)
    known = np.column_stack([means.numpy(), SPACE.average_bits(INDEX)])
    expected = log_expected_hypervolume_improvement(
        *fitted().predict(points),
        torch.from_numpy(SPACE.average_bits(points)),
        torch.from_numpy(front(known)),
        reference_point(EVALUATED.loss, BITS),
    )
    assert score_within(BITS)(points) == pytest.approx(expected.numpy())


def test_outside_of_the_interval_there_is_no_score() -> None:
    points = sample_configurations(SPACE, 60, (2.3, 6.0), np.random.default_rng(9))
    bits = SPACE.average_bits(points)
    score = score_within((3.0, 4.0))(points)
    assert (np.isfinite(score) == ((bits >= 3.0) & (bits <= 4.0))).all()


def test_a_move_scores_as_the_configuration_that_it_makes() -> None:
    score, start = score_within(BITS), INDEX[3]
    groups, choices = SPACE.neighbours(start)
    expected = score(moved(start, groups, choices))
    assert score.moves(start, groups, choices) == pytest.approx(expected, rel=1e-3, abs=1e-3)


# The pool


def test_pool_has_the_best_first() -> None:
    assert (np.diff(score_within(BITS)(pool_of()[1])) <= 1e-9).all()


def test_pool_spreads_over_the_interval() -> None:
    bits = SPACE.average_bits(pool_of()[1])
    counts, _ = np.histogram(bits, bins=5, range=BITS)
    assert (counts > 0).all()


def test_pool_holds_the_best_allocations_of_the_posterior_mean() -> None:
    budgets = np.linspace(*BITS, DEFAULT.allocations).tolist()
    best = relaxed_allocations(SPACE, fitted().mean_table, budgets)
    assert keys(best[SPACE.within(best, BITS)]) <= keys(np.concatenate([pool_of()[1], INDEX]))


# Candidates


def test_pool_and_candidates_are_new_distinct_and_within_the_bits() -> None:
    (evaluated, pool), candidates = pool_of(failed=3), propose(6, failed=3)
    assert len(pool) > 20
    for proposed in (pool, candidates):
        assert len(keys(proposed)) == len(proposed)
        assert not keys(proposed) & keys(np.concatenate([INDEX, evaluated.exclude]))
        assert SPACE.within(proposed, BITS).all()


def test_a_candidate_scores_at_least_as_well_as_all_of_the_pool() -> None:
    score = score_within(BITS)
    assert score(propose(1))[0] >= score(pool_of()[1]).max()


def test_pending_configurations_spread_a_batch_over_average_bits() -> None:
    bits = SPACE.average_bits(propose(6, settings=NO_EMPTY))
    assert np.ptp(bits) > 1.0
    assert np.diff(np.sort(bits)).max() < np.ptp(BITS) / 2


def test_candidates_gain_more_hypervolume_than_random_ones() -> None:
    reference = reference_point(EVALUATED.loss, BITS)

    def gain(candidates: Integers) -> float:
        index = np.concatenate([INDEX, candidates])
        points = np.column_stack([losses_of(index), SPACE.average_bits(index)])
        return hypervolume(points, reference) - hypervolume(points[: len(INDEX)], reference)

    draw = np.random.default_rng(2)
    assert gain(propose(5)) > 2 * max(
        gain(sample_configurations(SPACE, 5, BITS, draw)) for _ in range(20)
    )


@pytest.mark.parametrize("share", [2, 4])
def test_every_nth_candidate_goes_to_an_empty_segment(share: int) -> None:
    """A segment is empty if nothing in it is evaluated or pending."""
    candidates = propose(8, settings=SearchSettings(empty_segment_share=share))
    pool_segments = set(segments(pool_of()[1]))
    for turn in range(share - 1, 8, share):
        known = np.concatenate([INDEX, candidates[:turn]])
        empty = pool_segments - set(segments(known))
        assert not empty or set(segments(candidates[turn : turn + 1])) <= empty
    first = np.concatenate([INDEX, candidates[: share - 1]])
    assert set(segments(first)) < set(range(14))


def test_every_second_candidate_has_the_least_estimated_loss_within_a_budget() -> None:
    settings = replace(DEFAULT, budgets=(3.1, 4.3, 5.2))
    pool = candidate_pool(fitted(), SPACE, EVALUATED, BITS, np.random.default_rng(0), settings)
    pending = NONE
    for turn in range(8):
        found = next_candidate(fitted(), SPACE, EVALUATED, pool, pending, BITS, EDGES, settings)
        assert found is not None
        pending = np.concatenate([pending, found[None]])
        if turn % 2 == 0:
            budget = settings.budgets[turn // 2 % 3]
            assert budget - 0.035 <= float(SPACE.average_bits(found)) <= budget
            others = pool[SPACE.average_bits(pool) <= budget]
            others = others[[row.tobytes() not in keys(pending[:-1]) for row in others]]
            least = fitted().predict(others)[0].min()
            assert fitted().predict(found[None])[0] == pytest.approx(float(least))


def test_without_empty_segments_the_best_candidate_is_taken() -> None:
    one_segment = segment_edges(BITS, 1)
    assert np.array_equal(propose(4, one_segment), propose(4, one_segment, NO_EMPTY))


# Small spaces


def small(layers: int) -> tuple[ConfigurationSpace, Integers, Floats]:
    """A space that can be listed, all of its configurations, and losses of them."""
    whole = make_space(1, INTEGER)
    space = ConfigurationSpace(whole.layers[:layers], INTEGER, whole.storage_bits)
    everything = np.array(list(itertools.product(range(8), repeat=layers)), dtype=np.int64)
    return space, everything, 1 / space.average_bits(everything)


def search_small(
    space: ConfigurationSpace, evaluated: Evaluated, pending: Integers
) -> Integers | None:
    scores = weighted_scores(space, errors_of(space), np.ones(len(space.layers)))
    surrogate = fit_surrogate(score_features(space, scores), evaluated.index, evaluated.loss)
    generator = np.random.default_rng(0)
    bits = (2.0, 9.0)
    pool = candidate_pool(surrogate, space, evaluated, bits, generator)
    edges = segment_edges(bits, 4)
    return next_candidate(surrogate, space, evaluated, pool, pending, bits, edges, SearchSettings())


@pytest.mark.parametrize("state", ["evaluated", "pending", "excluded"])
def test_a_space_that_is_used_up_gives_no_candidate(state: str) -> None:
    space, everything, loss = small(1)
    known, last = everything[:5], everything[5:]
    none = everything[:0]
    evaluated = Evaluated(known, loss[:5], last if state == "excluded" else none)
    if state == "evaluated":
        evaluated = Evaluated(everything, loss, none)
    assert search_small(space, evaluated, last if state == "pending" else none) is None


@pytest.mark.parametrize("missing", [0, 40])
def test_the_last_configuration_of_a_small_space_is_found(missing: int) -> None:
    space, everything, loss = small(2)
    known = np.delete(everything, missing, axis=0)
    evaluated = Evaluated(known, np.delete(loss, missing), known[:0])
    found = search_small(space, evaluated, known[:0])
    assert found is not None
    assert (found == everything[missing]).all()
