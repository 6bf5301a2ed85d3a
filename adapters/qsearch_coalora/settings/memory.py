"""One clear error where memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qsearch.errors import EvaluationError


class OutOfMemoryError(EvaluationError):
    """The device has no memory left; in an evaluation, its configuration alone fails."""


@contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Raise one clear error instead of PyTorch's several; also a decorator.

    Raises:
        OutOfMemoryError: If memory runs out inside.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_memory(error):
            raise
        first = str(error).strip().splitlines()[:1]
        raise OutOfMemoryError(
            "memory ran out; lower trainer.batch_size, trainer.eval_batch_size or"
            " trainer.cache_mebibytes, or set trainer.gradient_checkpointing"
            + (f" ({first[0]})" if first else "")
        ) from error


def _is_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no error class of its own.
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "not enough memory" in message or "can't allocate memory" in message
    )
