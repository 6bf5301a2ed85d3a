from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qsearch import ObjectiveError, Observation
from qsearch.api.observation import as_observation


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])]
)
def test_any_single_number_is_a_loss(value: object) -> None:
    assert as_observation(value) == Observation(0.5)


def test_numbers_of_an_observation_become_plain() -> None:
    given = Observation(torch.tensor(0.5), np.float64(0.1), np.int64(8), {"f1": torch.tensor(1.0)})  # type: ignore[arg-type]
    observed = as_observation(given)
    assert observed == Observation(0.5, 0.1, 8, {"f1": 1.0})
    assert [type(value) for value in (observed.loss, observed.examples)] == [float, int]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", r"a loss is a number, not '0.5' \(str\)"),
        (None, r"a loss is a number, not None \(NoneType\)"),
        (True, "a loss is a number, not True"),
        (torch.zeros(2), "a loss is a number, not a value of type Tensor"),
        ({"loss": 1.0}, "a loss is a number, not a value of type dict"),
        (math.nan, "a loss must be finite, not nan"),
        (-math.inf, "a loss must be finite, not -inf"),
        (1e200, "a loss must be finite, not 1e.200"),
        (Observation(0.5, -0.1), "a standard error is 0 or more, not -0.1"),
        (Observation(0.5, math.nan), "a standard error must be finite"),
        (Observation(0.5, examples=0), "examples is a number of examples, 1 or more, not 0"),
        (10**400, "a loss is a number, not a value of type int"),
        (Observation(0.5, examples="abc"), "examples is a number of examples, 1 or more, not 'a"),  # type: ignore[arg-type]
        (
            Observation(0.5, metrics={"seconds": 1.0}),
            "a metric may not be called 'seconds'",
        ),
        (Observation(0.5, metrics={"f1": "high"}), "metric 'f1' is a number, not 'high'"),  # type: ignore[dict-item]
        (Observation(0.5, metrics=[1]), r"metrics is a mapping of name to number, not \[1\]"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_a_finite_loss_is_named(value: object, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        as_observation(value)
