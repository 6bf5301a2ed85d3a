"""One process at a time for a study in a PostgreSQL database, whatever directory and host it has.

The lock is an advisory lock of a connection that is kept open: the server frees it when the
connection ends. Each transaction shares it and confirms the connection before it commits, so a
process that lost its connection cannot write once another has taken the study over. SQLite needs no
lock: the lock of the study's directory is enough.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qsearch.errors import QsearchError, StudyBusyError
from qsearch.experiment.url import database_errors, open_engine, without_password

_PATIENCE_SECONDS = 2.0
"""How long a study waits until the server notices that the process before was killed."""

_SETTINGS = {
    # So that the server notices within a minute that this host is gone.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


class LockLostError(QsearchError):
    """Another process has taken the study while this one was disconnected from the database."""


class DatabaseLock:
    """A study of a PostgreSQL database that this process holds, or is about to."""

    def __init__(self, url: str, study: str) -> None:
        self._label = f"--storage {without_password(url)!r}: the study {study!r}"
        self._key = lock_key(study)
        self._connection: Connection | None = None

    def take(self, engine: Engine) -> str | None:
        """Take the lock, or do nothing if it is held; return who has it instead, if another does.

        If the database does not answer, this is a SQLAlchemyError, here and in what follows.
        """
        if self._is_held():
            return None
        self.release()
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.detach()  # It must not go back to a pool with its lock.
        owner = f"process {os.getpid()} on {socket.gethostname()}"[:63]  # All that it can hold.
        for name, value in {"application_name": owner, **_SETTINGS}.items():
            self._ask(func.set_config(name, value, False))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._ask(func.pg_try_advisory_lock(self._key)):
            if time.monotonic() >= deadline:
                holder = lock_holders(self._connection).get(self._key, "another process")
                self.release()
                return holder
            time.sleep(0.05)
        # Shared from now on: with transactions of this process, which others have to wait for.
        self._ask(func.pg_advisory_lock_shared(self._key))
        self._ask(func.pg_advisory_unlock(self._key))
        return None

    def renew(self, engine: Engine) -> None:
        """Take the lock again if its connection was lost, before the study is read again.

        If another process has taken the study, this is a LockLostError.
        """
        if holder := self.take(engine):
            raise LockLostError(
                f"{self._label} was taken over by {holder} while this process was disconnected"
                " from the database; it stops, so that two do not write"
            )

    def require(self, connection: Connection) -> None:
        """Confirm the lock at the end of a transaction, which then is that of the holder."""
        # Until the transaction has ended, nobody else takes the lock.
        connection.execute(select(func.pg_advisory_xact_lock_shared(self._key)))
        self._ask(func.now())

    def release(self) -> None:
        """Give the lock back."""
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # The database may be away.
                self._connection.close()
            self._connection = None

    def _is_held(self) -> bool:
        try:
            return bool(self._ask(func.now()))
        except SQLAlchemyError:
            return False

    def _ask(self, function: Any) -> Any:
        if self._connection is None or self._connection.invalidated:
            # SQLAlchemy would connect again, without the lock.
            lost = Exception("the connection that holds the lock was lost")
            raise DBAPIError(str(function), None, lost, connection_invalidated=True)
        return self._connection.execute(select(function)).scalar()


@contextlib.contextmanager
def hold_study(url: str, name: str) -> Iterator[DatabaseLock | None]:
    """Hold a study in a database for this process; None where the database needs no lock.

    If another process holds it, this is a StudyBusyError.
    """
    engine = open_engine(url)
    if engine.dialect.name != "postgresql":
        yield None
        return
    lock = DatabaseLock(url, name)
    with contextlib.ExitStack() as held:
        held.callback(lock.release)
        with database_errors(url):
            holder = lock.take(engine)
        if holder:
            raise StudyBusyError(
                f"--storage {without_password(url)!r}: the study {name!r} is being run already, by"
                f" {holder}; wait for it, or give the study another name"
            )
        yield lock


def lock_key(study: str) -> int:
    """Return the key of a study's advisory lock, a signed integer of 64 bits."""
    digest = hashlib.sha256(f"qsearch study {study}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def lock_holders(connection: Connection) -> dict[int, str]:
    """Return who holds locks in a database, by :func:`lock_key`."""
    if connection.dialect.name != "postgresql":
        return {}
    query = text(
        "SELECT classid::bigint << 32 | objid::bigint, application_name"
        " FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
        " AND application_name LIKE 'process %'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return {int(key): str(holder) for key, holder in connection.execute(query)}
