"""What a user is told where memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qsearch.errors import EvaluationError


class OutOfMemoryError(EvaluationError):
    """The device has no memory left; in an evaluation, its configuration alone fails."""


@contextmanager
def telling_of_memory() -> Iterator[None]:
    """Raise one clear error in place of PyTorch's several; also a decorator.

    Raises:
        OutOfMemoryError: If memory runs out inside.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _told(error) from error
    except RuntimeError as error:
        # The CPU's allocator has no error class of its own.
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _told(error) from error


def _told(error: Exception) -> OutOfMemoryError:
    first = str(error).strip().splitlines()[:1]
    return OutOfMemoryError(
        "memory ran out; lower trainer.batch_size, trainer.eval_batch_size or"
        " trainer.cache_mebibytes, or set trainer.gradient_checkpointing"
        + (f" ({first[0]})" if first else "")
    )
