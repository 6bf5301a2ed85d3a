"""Waiting for a database that goes away while a study runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from qsearch._text import one_line
from qsearch.errors import QsearchError
from qsearch.monitoring.events import EventKind

STORAGE_WAIT = 900.0
"""Seconds that a study waits for its database before it stops, unless told otherwise."""

_FIRST_PAUSE = 0.25
_MAX_PAUSE = 15.0
_LOCKED = "database is locked"
"""SQLite's word for another process that writes for longer than a connection waits."""
_AWAY_STATES = ("25006", "40001", "40P01", "57P0")
"""How PostgreSQL's codes begin for a server that is read-only, as while another takes over, that
ended a transaction for another's sake, or that shuts down."""
_MIN_FAILURES = 3
"""Two failures with a long evaluation between may be two outages."""

Told = Callable[..., None]
"""Called as ``told(kind, **fields)`` with what shall be told."""


def wait_for_connections(engine: Engine, seconds: float, told: Told) -> None:
    """Have an engine try again, ever less often, where a connection cannot be made.

    Nothing is lost meanwhile: a transaction begins with its connection.

    Args:
        engine: The engine.
        seconds: How long it tries for one connection.
        told: Told of ``storage lost`` at the first try that fails, and of ``storage back``.

    Raises:
        QsearchError: From whatever needs the connection, once the time is over.
    """

    def connect(dialect: Any, record: Any, arguments: Any, named: Any) -> Any:
        start, pause, lost = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                connection = dialect.connect(*arguments, **named)
            except dialect.dbapi.OperationalError as error:
                reason = one_line(error)
                if time.monotonic() + pause > start + seconds:
                    raise QsearchError(
                        f"the database could not be reached for {time.monotonic() - start:.0f} s:"
                        f" {reason}; what was saved is kept, the same command resumes"
                    ) from error
                if not lost:
                    told(EventKind.STORAGE_LOST, reason=reason)
                lost = True
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                if lost:
                    told(EventKind.STORAGE_BACK, seconds=time.monotonic() - start)
                return connection

    event.listen(engine, "do_connect", connect)


def is_disconnect(error: BaseException) -> bool:
    """Return whether an error means that the database went away, or kept others waiting."""
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None))
    return (
        error.connection_invalidated or _LOCKED in str(error.orig) or state.startswith(_AWAY_STATES)
    )


class ReconnectPolicy:
    """Counts how long a study has been cut off again and again, without anything saved between.

    Args:
        seconds: How long that may last.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._saved: int | None = None
        self._first, self._failures, self._pause = 0.0, 0, _FIRST_PAUSE

    def pause(self, error: BaseException, saved: int) -> None:
        """Wait before the next try.

        Args:
            error: Why the study was cut off.
            saved: How many transactions it has saved so far. Time alone tells no progress: a study
                may evaluate for long, and each time fail to save what it found.

        Raises:
            QsearchError: If it has lasted too long.
        """
        now = time.monotonic()
        if saved != self._saved:
            self._saved, self._first, self._failures, self._pause = saved, now, 0, _FIRST_PAUSE
        self._failures += 1
        if self._failures >= _MIN_FAILURES and now - self._first > self._seconds:
            raise QsearchError(
                f"the database has failed for {now - self._first:.0f} s: {one_line(error)}; what"
                " was saved is kept, the same command resumes"
            ) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _MAX_PAUSE)
