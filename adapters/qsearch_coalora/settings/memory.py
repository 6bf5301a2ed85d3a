"""One clear error where memory does not suffice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from qsearch.errors import EvaluationError


class OutOfMemoryError(EvaluationError):
    """The device has no memory left; in an evaluation, its configuration alone fails."""


@contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Raise OutOfMemoryError instead of PyTorch's several errors; also a decorator."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator has no error class of its own.
        of_memory = re.search("not enough memory|can't allocate memory", str(error))
        if not (of_memory or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            raise
        first = str(error).strip().splitlines()[:1]
        raise OutOfMemoryError(
            "memory ran out; lower trainer.batch_size, trainer.eval_batch_size or"
            " trainer.cache_mebibytes, or set trainer.gradient_checkpointing"
            + (f" ({first[0]})" if first else "")
        ) from error
