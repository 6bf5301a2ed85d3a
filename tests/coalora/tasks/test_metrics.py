from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_coalora.tasks.metrics import accuracy, confusion, f1_score, weighted_mean
from sklearn.metrics import f1_score as reference_f1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (torch.tensor(values) for values in zip(*pairs, strict=True))
    expected = reference_f1(labels, predicted, zero_division=0)
    assert f1_score(confusion(predicted, labels))[0] == pytest.approx(expected)


def test_the_standard_error_of_f1_is_the_spread_over_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.1, 0.15, 0.25])
    drawn = torch.multinomial(shares, 400 * 2000, replacement=True, generator=generator)
    scores = [f1_score(cells.float()) for cells in drawn.view(2000, 400)]
    spread = torch.tensor([score for score, _ in scores]).std().item()
    stated = sum(error for _, error in scores) / len(scores)
    assert stated == pytest.approx(spread, rel=0.05)


def test_accuracy_has_the_binomial_standard_error() -> None:
    assert accuracy(torch.tensor([1, 1, 0, 1])) == pytest.approx((0.75, (0.75 * 0.25 / 4) ** 0.5))


def test_the_weighted_mean_of_equal_weights_has_the_textbook_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    mean, error = weighted_mean(values, torch.full((4,), 3.0))
    assert mean == pytest.approx(4.0)
    assert error == pytest.approx(values.std().item() / 2)
