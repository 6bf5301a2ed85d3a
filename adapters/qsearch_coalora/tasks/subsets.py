"""Parts of the examples of a split or a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def examples_in(batch: Mapping[str, Tensor]) -> int:
    """Return a batch's number of examples."""
    return len(next(iter(batch.values())))


def one_example_in(
    one_in: int, batches: Iterator[Mapping[str, Tensor]]
) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches with every ``one_in``-th example, counted over all of them.

    Args:
        one_in: One example in so many is kept, the first among them.
        batches: Inputs by name (examples × …); those without a kept example are left out.
    """
    seen = 0
    for batch in batches:
        size = examples_in(batch)
        first = -seen % one_in
        seen += size
        if first < size:
            yield {name: values[first::one_in] for name, values in batch.items()}


def in_parts(batch: Mapping[str, Tensor], parts: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield a batch in parts of nearly equal size, as many as it has examples at most.

    Args:
        batch: Inputs by name (examples × …).
        parts: How many.
    """
    size = examples_in(batch)
    for chosen in torch.arange(size).tensor_split(min(parts, size)):
        yield {name: values[chosen] for name, values in batch.items()}
