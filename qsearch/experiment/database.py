"""A study's database: opened through Ax, written in whole transactions, waited for when away.

Ax saves one change in several commits: attaching data deletes a trial's old data in one and inserts
it, with the new, in a later one. A process killed in between would lose the trial's earlier
rounds. Within a transaction of :class:`Database` all of it is saved, or none.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ax.storage.sqa_store import db
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, OperationalError
from tenacity import RetryCallState, Retrying
from tenacity.retry import retry_if_exception
from tenacity.stop import stop_after_attempt, stop_after_delay, stop_all
from tenacity.wait import wait_exponential

from qsearch._text import in_one_line
from qsearch.errors import InputError, QsearchError
from qsearch.experiment.schema import create_tables
from qsearch.experiment.url import RESTORE, RESUME, connect_arguments, driver_words
from qsearch.monitoring.events import Emit, EventKind

STORAGE_WAIT = 900.0
"""Seconds that a study waits for its database before it stops, unless told otherwise."""

_MIN_ATTEMPTS = 3
"""An attempt may take longer than the wait, where the network swallows what is sent."""
_FIRST_PAUSE = 0.25
_MAX_PAUSE = 15.0
_LOCKED = "database is locked"
"""SQLite's word for another process that writes for longer than a connection waits."""
_AWAY_STATES = ("25006", "40001", "40P01", "57P0")
"""How PostgreSQL's codes begin for a server that is read-only, as while another takes over, that
ended a transaction for another's sake, or that shuts down."""


AX_LOCK = threading.RLock()
"""Held while Ax's session factory, one for all threads, is bound to a database."""


def emit_nothing(kind: EventKind, round: int | None = None, **fields: object) -> None:
    """Send no event."""


class UnreachableError(QsearchError):
    """No connection to the database can be made."""


class Database:
    """The database that Ax saves to and loads from in this process.

    Ax has one session factory for the whole process (``ax.storage.sqa_store.db``). Each transaction
    binds it to its own database, so that several may be open; no other code of the study touches
    that factory.

    Messages name it by its label. Where it is lost while something is written, it is waited for,
    some seconds long, and ``storage lost`` and ``storage back`` are emitted. Damage of an SQLite
    file is an InputError; other errors of opening are SQLAlchemy's and the driver's.
    """

    def __init__(
        self, url: str, label: str, wait: float = STORAGE_WAIT, emit: Emit = emit_nothing
    ) -> None:
        self.url, self.label = url, label
        self._wait, self._emit = wait, emit
        self.before_reload: Callable[[], None] = lambda: None
        """Called once a lost database is back, before anything is read from it."""
        with AX_LOCK:
            # Connections that died in the pool are found before a transaction begins.
            db.init_engine_and_session_factory(
                url=url, force_init=True, pool_pre_ping=True, connect_args=connect_arguments(url)
            )
            self.engine, self._sessions = db.get_engine(), db.SESSION_FACTORY
            self._require_whole()
            create_tables(self.engine)

    def close(self) -> None:
        """Close Ax's connections, so that nothing of this process keeps the database open."""
        # Ax's factory may be that of another database by now, whose session is not this one's.
        self._sessions.remove()
        self.engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all that Ax saves inside one transaction.

        After an exception nothing of it is in the database, while Ax's objects in memory may have
        changed: load them again.
        """
        with AX_LOCK, self._connect() as connection, connection.begin():
            sessions = db.SESSION_FACTORY
            # A session on a connection that has begun joins it; its own commits end nothing.
            sessions.remove()
            sessions.configure(bind=connection)
            try:
                yield
            finally:
                sessions.remove()
                sessions.configure(bind=self.engine)

    def write(self, save: Callable[[], None], reload: Callable[[], None]) -> None:
        """Save in one transaction; while the database is away, again, ever less often.

        ``save`` changes Ax's objects and saves them; where the connection broke while it was
        committed, that may be done already. ``reload`` is called before another try: what is in
        memory may be ahead of the database. If the database stays away, this is a QsearchError.
        """
        start = time.monotonic()

        def lost(state: RetryCallState) -> None:
            if state.attempt_number == 1:
                self._emit(EventKind.STORAGE_LOST, reason=_reason(state))

        def stay_away(state: RetryCallState) -> None:
            raise QsearchError(
                f"{self.label}: could not be used for {time.monotonic() - start:.0f} s:"
                f" {_reason(state)}; {RESUME}"
            ) from _error(state)

        attempts = Retrying(
            retry=retry_if_exception(is_disconnect),
            wait=wait_exponential(_FIRST_PAUSE, _MAX_PAUSE),
            stop=stop_all(stop_after_attempt(_MIN_ATTEMPTS), stop_after_delay(self._wait)),
            before_sleep=lost,
            retry_error_callback=stay_away,
        )
        for attempt in attempts:
            with attempt, self.transaction():
                if attempt.retry_state.attempt_number > 1:
                    self.before_reload()
                    reload()
                save()
        if attempt.retry_state.attempt_number > 1:
            self._emit(EventKind.STORAGE_BACK, seconds=time.monotonic() - start)

    def _connect(self) -> Connection:
        try:
            return self.engine.connect()
        except OperationalError as error:
            raise UnreachableError(
                f"{self.label}: cannot be reached: {driver_words(error)}; {RESUME}"
            ) from error

    def _require_whole(self) -> None:
        """Refuse an SQLite file whose pages do not fit together; SQLite notices some when used."""
        if self.engine.dialect.name != "sqlite":
            return
        try:
            with self.engine.connect() as connection:
                problem = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
        except UnicodeDecodeError as error:  # In SQLite's own words, which quote the file.
            problem = str(error)
        if problem != "ok":
            raise InputError(f"{self.label}: damaged: {in_one_line(problem)}; {RESTORE}")


def is_disconnect(error: BaseException) -> bool:
    """Return whether an error means that the database went away, or kept others waiting."""
    if isinstance(error, UnreachableError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None))
    return (
        error.connection_invalidated or _LOCKED in str(error.orig) or state.startswith(_AWAY_STATES)
    )


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _reason(state: RetryCallState) -> str:
    error = _error(state)
    cause = error.__cause__ if isinstance(error, UnreachableError) else error
    return driver_words(cause) if cause else "unknown"
