"""Labels that a model draws from its own distribution."""

from __future__ import annotations

import pytest
import torch
from qsearch_coalora.tasks.batching import IGNORED

from tests.coalora.conftest import classification

LOGITS = torch.tensor([0.0, 1.0, -1.0, 2.0])
COUNT = 20_000


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_labels_of_examples_are_as_frequent_as_they_are_probable(table_files) -> None:
    batch = {"labels": torch.zeros(COUNT, dtype=torch.long)}
    drawn = classification(table_files).draw_labels(LOGITS.expand(COUNT, 4), batch, generator())
    assert drawn["labels"].bincount() / COUNT == pytest.approx(LOGITS.softmax(-1), abs=0.015)
    assert not batch["labels"].any()


def test_tokens_are_drawn_where_a_loss_is_of_them(make_causal_task) -> None:
    labels = torch.zeros(2, COUNT, dtype=torch.long)
    labels[:, : COUNT // 2] = IGNORED
    batch = {"labels": labels}
    drawn = make_causal_task().draw_labels(LOGITS.expand(2, COUNT, 4), batch, generator())
    assert (drawn["labels"][:, : COUNT // 2] == IGNORED).all()
    predicted = drawn["labels"][:, COUNT // 2 :].flatten()
    assert predicted.bincount() / COUNT == pytest.approx(LOGITS.softmax(-1), abs=0.015)


def test_a_token_is_drawn_from_the_logits_of_the_token_before(make_causal_task) -> None:
    certain = torch.nn.functional.one_hot(torch.arange(5) % 4).float()[None] * 1e3
    batch = {"labels": torch.zeros(1, 5, dtype=torch.long)}
    drawn = make_causal_task().draw_labels(certain, batch, generator())
    assert drawn["labels"].tolist() == [[0, 0, 1, 2, 3]]
