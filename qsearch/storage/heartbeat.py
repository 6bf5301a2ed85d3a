"""A thread that says now and then that this process lives."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def heartbeat(beat: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Call a function every so often while the work inside goes on.

    What the function raises is forgotten: it is called again in time. A call that hangs holds
    nothing up.

    Args:
        beat: What to call, in a thread of its own; returns whether to go on.
        seconds: How often.
    """
    done = threading.Event()

    def run() -> None:
        goes_on = True
        while goes_on and not done.wait(seconds):
            with contextlib.suppress(Exception):
                goes_on = beat()

    thread = threading.Thread(target=run, name="qsearch-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1.0)
