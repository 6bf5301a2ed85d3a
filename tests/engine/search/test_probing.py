"""Scores from losses with one group quantized low at a time."""

from __future__ import annotations

import numpy as np
import pytest

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.probing import probed_scores, probes
from tests.engine.support import errors_of, make_space

SPACE = make_space(2, fused=True)
ERRORS = errors_of(SPACE)
GROUPS = np.arange(len(SPACE.groups))
PROBES = probes(SPACE, ERRORS, 3.0)
SENSITIVITY = np.random.default_rng(0).lognormal(0, 1, len(SPACE.layers))


def true_scores() -> Floats:
    by_layer = ERRORS * SENSITIVITY[:, None]
    return np.stack([by_layer[list(group.members)].sum(axis=0) for group in SPACE.groups])


def losses_of(index: Integers) -> Floats:
    return np.asarray(0.3 + true_scores()[GROUPS, index].sum(axis=-1))


def test_each_probe_lowers_one_group_of_the_best_configuration() -> None:
    assert PROBES.shape == (len(GROUPS) + 1, len(GROUPS))
    changed = PROBES[1:] != PROBES[0]
    assert np.array_equal(changed, np.eye(len(GROUPS), dtype=bool))
    assert (losses_of(PROBES[1:]) > losses_of(PROBES[:1])).all()


@pytest.mark.parametrize("bits", [2.3, 3.0, 4.2])
def test_the_low_layer_configuration_is_near_the_bits_asked_for(bits: float) -> None:
    probe = probes(SPACE, ERRORS, bits)
    low = SPACE.bits_table[np.diag(probe[1:])]
    assert np.abs(low - bits).max() < 0.3


def test_scores_of_an_additive_loss_are_found() -> None:
    found = probed_scores(SPACE, ERRORS, PROBES, losses_of(PROBES))
    at_best = true_scores()[GROUPS, PROBES[0]]
    # The reference has an error too, so that rises are a little less than whole scores.
    assert found == pytest.approx(true_scores(), rel=0.05, abs=float(at_best.max()))


def test_a_rise_below_zero_counts_as_a_small_one() -> None:
    losses = losses_of(PROBES)
    losses[2] = losses[0] - 0.1
    found = probed_scores(SPACE, ERRORS, PROBES, losses)
    assert (found > 0).all()
    assert found[1].max() < np.median(found.max(axis=1))


def test_losses_that_never_rise_give_equal_sensitivities() -> None:
    found = probed_scores(SPACE, ERRORS, PROBES, np.full(len(PROBES), 0.3))
    assert np.isfinite(found).all()
    assert found[GROUPS, PROBES[1, 0]] == pytest.approx(np.ones(len(GROUPS)))


@pytest.mark.parametrize("failed", [np.nan, np.inf])
def test_a_failed_probe_counts_as_the_most_sensitive(failed: float) -> None:
    losses = losses_of(PROBES)
    losses[1 + int(losses[1:].argmin())] = failed
    group = int(losses_of(PROBES)[1:].argmin())
    found = probed_scores(SPACE, ERRORS, PROBES, losses)
    low = np.diag(PROBES[1:])
    assert found[group, low[group]] == pytest.approx(found[GROUPS, low].max())


def test_without_any_loss_it_says_so() -> None:
    losses = np.full(len(PROBES), np.nan)
    with pytest.raises(InputError, match="every probe failed"):
        probed_scores(SPACE, ERRORS, PROBES, losses)
