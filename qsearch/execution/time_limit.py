"""Interrupting work that takes too long, in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from qsearch.errors import InputError

_AGAIN = 1.0
"""Seconds after which work that still runs is interrupted again."""


class TimeLimitError(BaseException):
    """Work took too long; not an ``Exception``, so that no handler in the work catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in the work inside after some wall time.

    This happens between two steps of Python: a call into PyTorch is never interrupted. What the
    work was changing may be half changed.
    """
    require_main_thread()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # Repeatedly, because Python ignores an exception that is raised while an object is deleted.
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)


def require_main_thread() -> None:
    """Check that this is the main thread: no signal arrives in others."""
    if threading.current_thread() is not threading.main_thread():
        raise InputError(
            "failures.timeout_seconds: a study that runs in a thread cannot end an evaluation;"
            " run it in the main thread, or with workers"
        )
