"""KL from the kept top of a distribution: zero for equal models, and a tight lower bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from qsearch_coalora.tasks.divergence import (
    TOP,
    TopProbabilities,
    divergence,
    same_top,
    top_probabilities,
)

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, vocabulary: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model as peaked as language models are, and of one near it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(5, vocabulary, generator=generator)
    return logits, logits + noise * torch.randn(5, vocabulary, generator=generator)


def exact(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@given(SEEDS, st.sampled_from([10, TOP, TOP + 1, 4000]), st.floats(0.01, 2.0))
@example(2656, TOP + 1, 1.0)  # What is left to one token is below the precision of float32.
def test_it_is_a_tight_lower_bound_of_the_exact_divergence(
    seed: int, vocabulary: int, noise: float
) -> None:
    reference, logits = drawn(seed, vocabulary, noise)
    actual = divergence(logits, top_probabilities(reference)).double()
    expected = exact(reference, logits)
    assert (actual >= 0).all()
    assert (actual <= expected + 1e-5).all()
    # What is lost is the divergence within the rest, whose probability is small.
    rest = top_probabilities(reference).rest.double()
    assert (expected - actual <= rest * (1 + 4 * noise) * noise**2 * 5 + 1e-5).all()


@given(SEEDS, st.sampled_from([10, 4000]))
def test_it_is_zero_of_equal_models(seed: int, vocabulary: int) -> None:
    reference, _ = drawn(seed, vocabulary, 1.0)
    top = top_probabilities(reference)
    assert divergence(reference, top).abs().max() < 1e-6
    # Nor does a constant that is added to all logits change the model.
    assert divergence(reference + 3.0, top).abs().max() < 1e-5
    assert same_top(reference, top).all()


def test_a_small_vocabulary_is_kept_whole() -> None:
    reference, logits = drawn(0, 60, 1.0)
    top = top_probabilities(reference)
    assert top.tokens.shape == (5, 60)
    assert divergence(logits, top).numpy() == pytest.approx(exact(reference, logits), abs=1e-6)


def test_a_token_as_likely_as_the_first_is_the_same_top() -> None:
    top = TopProbabilities(torch.zeros(3, 1), torch.tensor([[1], [1], [1]]), torch.zeros(3))
    logits = torch.tensor([[2.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert same_top(logits, top).tolist() == [True, False, True]
