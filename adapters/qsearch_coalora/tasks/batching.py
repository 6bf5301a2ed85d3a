"""Encoding texts and grouping them into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED = -100
"""Label of a token that no loss is of, as of PyTorch's cross-entropy."""

_GROUP_BATCHES = 8
"""Shuffled batches that are sorted by length among themselves."""


def examples_in(batch: Mapping[str, Tensor]) -> int:
    """Return a batch's number of examples."""
    return len(next(iter(batch.values())))


def in_pieces(batch: Mapping[str, Tensor], count: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield a batch in pieces of nearly equal size, as many as it has examples at most."""
    import torch

    size = examples_in(batch)
    for chosen in torch.arange(size).tensor_split(min(count, size)):
        yield {name: values[chosen] for name, values in batch.items()}


def encode(
    tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int
) -> tuple[dict[str, Tensor], ...]:
    """Encode examples of one or two texts as unpadded model inputs by name, integers (tokens).

    Raises:
        InputError: If there is no room for a token of each text, or a text has no token.
    """
    import torch

    columns = [list(column) for column in zip(*texts, strict=True)]
    least = tokenizer.num_special_tokens_to_add(pair=len(columns) > 1) + len(columns)
    if max_length < least:
        raise InputError(
            f"task.max_length {max_length} leaves no room for text; give at least {least}"
        )
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    empty = next((index for index, ids in enumerate(encoded["input_ids"]) if not ids), None)
    if empty is not None:
        raise InputError(f"the tokenizer makes no token of the text {' '.join(texts[empty])!r}")
    return tuple(
        {name: torch.tensor(values[index]) for name, values in encoded.items()}
        for index in range(len(texts))
    )


def pad(examples: Sequence[Mapping[str, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right to the longest (examples × tokens)."""
    from torch.nn.utils.rnn import pad_sequence

    values = {"input_ids": pad_token_id, "labels": IGNORED}
    return {
        name: pad_sequence(
            [example[name] for example in examples],
            batch_first=True,
            padding_value=values.get(name, 0),
        )
        for name in examples[0]
    }


def length_grouped(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None
) -> Iterator[list[int]]:
    """Yield the indices of batches whose examples have similar lengths; the last may be smaller.

    The generator shuffles the examples, then the batches of each group; without one, all examples
    are sorted by length.
    """
    import torch

    if generator is None:
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        for first in range(0, len(order), batch_size):
            yield order[first : first + batch_size]
        return
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    span = batch_size * _GROUP_BATCHES
    for first in range(0, len(shuffled), span):
        group = sorted(shuffled[first : first + span], key=lambda index: lengths[index])
        batches = [group[at : at + batch_size] for at in range(0, len(group), batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]
