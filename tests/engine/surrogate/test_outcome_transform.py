"""Scales on which losses are modelled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch._arrays import Floats
from qsearch.surrogate.outcome_transform import (
    OutcomeTransform,
    linear_outcome,
    logarithmic_outcome,
)

SCALES = pytest.mark.parametrize("make", [linear_outcome, logarithmic_outcome])
LOSSES = st.lists(st.floats(-5, 20), min_size=2, max_size=20).map(np.array)


@SCALES
@given(loss=LOSSES)
def test_the_outcome_rises_with_the_loss_and_is_finite(make, loss: Floats) -> None:
    outcome = make(loss).of(loss).numpy()
    assert np.isfinite(outcome).all()
    order = np.argsort(loss, kind="stable")
    assert (np.diff(outcome[order]) >= 0).all()


@SCALES
def test_the_outcome_is_standardised(make) -> None:
    loss = np.array([0.3, 0.35, 0.5, 1.2])
    outcome = make(loss).of(loss).numpy()
    assert outcome.mean() == pytest.approx(0)
    assert outcome.std() == pytest.approx(1)


@SCALES
@given(loss=LOSSES)
def test_without_uncertainty_the_loss_comes_back(make, loss: Floats) -> None:
    outcome = make(loss)
    y = outcome.of(loss)
    mean, std = outcome.moments(y, torch.zeros_like(y))
    assert mean.numpy() == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert (std == 0).all()


@SCALES
def test_moments_are_those_of_samples(make) -> None:
    outcome = make(np.array([3.4, 3.6, 4.5, 8.0]))
    mean, variance = torch.tensor([0.7]).double(), torch.tensor([0.3]).double()
    samples = 0.7 + math.sqrt(0.3) * np.random.default_rng(0).standard_normal(400_000)
    value = samples * outcome.scale + outcome.location
    losses = value if outcome.floor is None else outcome.floor + np.exp(value)
    moments = [float(value) for value in outcome.moments(mean, variance)]
    assert moments == pytest.approx([losses.mean(), losses.std()], rel=0.01)


@SCALES
def test_slopes_turn_densities_of_the_outcome_into_those_of_losses(make) -> None:
    loss = np.array([0.3, 0.35, 0.5, 1.2])
    outcome, step = make(loss), 1e-6
    slopes = (outcome.of(loss + step) - outcome.of(loss - step)) / (2 * step)
    assert outcome.log_slopes(loss) == pytest.approx(float(slopes.log().sum()), rel=1e-6)


@SCALES
def test_the_unit_is_the_slope_at_a_typical_loss(make) -> None:
    outcome = make(np.array([0.3, 0.35, 0.5, 1.2]))
    step = torch.tensor([-1e-6, 1e-6]).double()
    low, high = outcome.moments(step, torch.zeros(2).double())[0]
    assert outcome.unit == pytest.approx(float(high - low) / 2e-6, rel=1e-6)


def test_half_of_the_least_loss_is_the_floor() -> None:
    assert logarithmic_outcome(np.array([3.0, 4.0, 9.0])).floor == pytest.approx(1.5)


def test_far_losses_are_as_uncertain_as_a_gaussian_can_say() -> None:
    outcome = OutcomeTransform(floor=1.0, location=0.0, scale=1.0)
    huge, large = (
        outcome.moments(torch.zeros(1).double(), torch.full((1,), variance).double())
        for variance in (50.0, 1.0)
    )
    assert huge == large
