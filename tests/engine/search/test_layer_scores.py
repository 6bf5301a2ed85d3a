"""Scores of single layers."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.search.layer_scores import split_among_layers
from qsearch.storage.measurements import read_layer_scores, write_measurement
from qsearch.storage.paths import (
    QUANTIZATION_ERROR,
    layer_scores_name,
    measurement_path,
    sensitivity_name,
)
from tests.engine.support import INTEGER, errors_of, make_space

SPACE = make_space(1, INTEGER, fused=True)
SHAPE = len(SPACE.layers), SPACE.choices.size


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@given(st.integers(0, 2**32), st.booleans())
def test_the_layers_of_a_group_share_its_score_by_their_weighted_errors(
    seed: int, some_are_exact: bool
) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.gamma(1.0, 1.0, (len(SPACE.groups), SPACE.choices.size))
    error = draw.gamma(1.0, 0.1, SHAPE)
    if some_are_exact:
        error[:, 0] = 0.0
    found = split_among_layers(SPACE, scores, error)
    assert (found >= 0).all()
    for group, of_group in zip(SPACE.groups, scores, strict=True):
        members = list(group.members)
        assert found[members].sum(axis=0) == pytest.approx(of_group)
        weights = np.array([SPACE.layers[member].parameters for member in members])
        for one, other in pairwise(members):
            ratio = found[one, 1] * error[other, 1] * SPACE.layers[other].parameters
            same = found[other, 1] * error[one, 1] * SPACE.layers[one].parameters
            assert ratio == pytest.approx(same)
        if some_are_exact:  # Nothing tells them apart but their size.
            expected = of_group[0] * weights / weights.sum()
            assert found[members, 0] == pytest.approx(expected)


def test_a_layer_that_is_not_tied_has_the_score_of_its_group() -> None:
    space = make_space(1, INTEGER)
    scores = np.arange(float(len(space.groups) * space.choices.size))
    scores = scores.reshape(-1, space.choices.size)
    assert split_among_layers(space, scores, errors_of(space)) == pytest.approx(scores)


def test_what_a_round_saved_is_read(directory: Path) -> None:
    saved = np.random.default_rng(0).random(SHAPE)
    write_measurement(directory, layer_scores_name(3), saved)
    found = read_layer_scores(directory, 3, SHAPE)
    assert found is not None
    assert (found == saved).all()
    assert read_layer_scores(directory, 2, SHAPE) is None


def test_of_a_round_of_an_earlier_version_they_are_errors_times_sensitivities(
    directory: Path,
) -> None:
    error, sensitivity = errors_of(SPACE), np.arange(float(SHAPE[0]))
    write_measurement(directory, QUANTIZATION_ERROR, error)
    assert read_layer_scores(directory, 0, SHAPE) is None
    write_measurement(directory, sensitivity_name(0), sensitivity)
    found = read_layer_scores(directory, 0, SHAPE)
    assert found is not None
    assert found == pytest.approx(error * sensitivity[:, None])


@pytest.mark.parametrize("damage", ["bytes", "infinite"])
def test_what_cannot_be_used_is_told_and_left_out(damage: str, directory: Path) -> None:
    told: list[str] = []
    values = np.full(SHAPE, np.inf if damage == "infinite" else 1.0)
    write_measurement(directory, layer_scores_name(0), values)
    if damage == "bytes":
        measurement_path(directory, layer_scores_name(0)).write_bytes(b"nothing")
    assert read_layer_scores(directory, 0, SHAPE, told.append) is None
    assert len(told) == 1
    assert "layer_scores-1.safetensors" in told[0]


def test_those_of_other_layers_are_left_out(directory: Path) -> None:
    told: list[str] = []
    write_measurement(directory, layer_scores_name(0), np.ones(SHAPE)[1:])
    assert read_layer_scores(directory, 0, SHAPE, told.append) is None
    assert told == []


def test_they_are_read_without_pytorch_and_ax() -> None:
    heavy = "{'torch', 'ax', 'scipy'} & {*sys.modules}"
    code = f"import sys, qsearch.storage.measurements; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
