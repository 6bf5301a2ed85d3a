"""A fixed part of the examples of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


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
        size = len(next(iter(batch.values())))
        first = -seen % one_in
        seen += size
        if first < size:
            yield {name: values[first::one_in] for name, values in batch.items()}
