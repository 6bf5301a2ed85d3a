"""Cutting off work that takes too long, in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from qsearch.errors import InputError

_AGAIN = 1.0
"""Seconds after which work that went on is cut off again."""


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
    require_main_thread()

    def cut_off(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, cut_off)
    try:
        # Again and again: what is raised while an object is deleted, Python swallows.
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)


def require_main_thread() -> None:
    """Check that work of this thread can be cut off.

    Raises:
        InputError: If it is not the main thread: no signal arrives in others.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "failures.timeout_seconds: a study that runs in a thread cannot cut an evaluation off;"
            " run it in the main thread, or with workers"
        )
