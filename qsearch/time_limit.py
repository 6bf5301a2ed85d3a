"""Cutting off work that takes too long, in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from qsearch.errors import InputError


class TimeLimitError(BaseException):
    """Work took too long; no ``Exception``, so that no handler on the way takes it for its own."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Cut off the work inside after some wall time.

    It is cut off between two steps of Python: one call into PyTorch is never torn, but may take its
    time. What the work was changing may be half changed.

    Args:
        seconds: Wall time.

    Raises:
        TimeLimitError: If the time is over.
        InputError: In a thread other than the main one, where no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "failures.timeout_seconds: a study that runs in a thread cannot cut an evaluation off;"
            " run it in the main thread, or with workers"
        )

    def cut_off(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, cut_off)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
