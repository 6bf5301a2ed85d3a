"""One process at a time for a study in a shared database, whatever directory and host it has.

The lease is a row of a table beside Ax's. Its holder writes the time of the database's clock there
now and then; once that is old, or the holder is a process of this host that has ended, another may
take it. Each change names the row as it was read, so of two that want it one gets it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    extract,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from qsearch.errors import QsearchError, StudyBusyError
from qsearch.experiment.url import database_errors, open_engine, without_password
from qsearch.storage.heartbeat import heartbeat
from qsearch.storage.owner import BEAT_SECONDS, STALE_SECONDS, Owner, read_owner, this_process

LEASES = MetaData()
_TABLE = Table(
    "qsearch_lease",
    LEASES,
    Column("study", Text, primary_key=True),
    Column("token", Text, nullable=False),  # Of one holding; a later one has another.
    Column("user", Text),
    Column("host", Text),
    Column("process", Integer),
    Column("since", Text),
    Column("started", Float(53)),
    Column("kernel", Text),
    Column("processes", Text),
    Column("directory", Text, nullable=False),
    Column("heartbeat", BigInteger),  # None: it was given back.
)
_NOW = cast(extract("epoch", func.current_timestamp()), BigInteger)
_ATTEMPTS = 5


class LeaseLostError(QsearchError):
    """Another process has taken the study while this one was cut off from the database."""


@dataclass(frozen=True)
class Lease:
    """A study's lease as the database has it.

    Args:
        study: The study's name.
        owner: Who has it, or had it last.
        directory: That process's study directory, as an absolute path of its host.
        silence: Seconds since it was heard of, by the database's clock; None if the lease was given
            back.
        token: Which holding it is.
    """

    study: str
    owner: Owner
    directory: str
    silence: float | None
    token: str

    def is_held(self) -> bool:
        """Return whether the owner is to be taken for living."""
        if self.silence is None:
            return False
        dead = self.owner.is_dead(self.silence)
        # A process of this host that lives but is silent may be cut off: it is not waited for ever.
        return not dead and self.silence < STALE_SECONDS


@dataclass(frozen=True)
class HeldLease:
    """A lease that this process holds.

    Args:
        study: The study's name.
        taken_over: The lease that was taken from an owner that died or fell silent, if it was.
    """

    study: str
    taken_over: Lease | None
    _engine: Engine
    _token: str
    _shown: str

    def is_ours(self) -> bool:
        """Return whether the study is still this process's.

        Raises:
            SQLAlchemyError: If the database does not answer.
        """
        with self._engine.connect() as connection:
            return _read_token(connection, self.study) == self._token

    def require(self, connection: Connection) -> None:
        """Confirm the lease within a transaction, whose commit then is that of the owner.

        Called last in a transaction, it keeps what a cut off process wrote out of the database:
        whoever wants the lease waits until the transaction has ended.

        Args:
            connection: The transaction's connection.

        Raises:
            LeaseLostError: If another process has taken the study.
        """
        if not _beat(connection, self.study, self._token):
            raise LeaseLostError(
                f"{self._shown}: the study {self.study!r} was taken over by another process while"
                " this one was cut off from the database; it stops, so that two do not write"
            )


@contextlib.contextmanager
def study_lease(url: str, name: str, directory: Path) -> Iterator[HeldLease]:
    """Hold a study in a database for this process.

    While the database is away, the lease is neither lost nor ends anything. Afterwards it is stale
    for a moment, so the study must be known to be the caller's own before.

    Args:
        url: SQLAlchemy URL of the database.
        name: The study's name.
        directory: Its directory, for others to read.

    Raises:
        StudyBusyError: If another process holds it.
        InputError: If the database cannot be used.
    """
    engine = open_engine(url)
    token = str(uuid.uuid4())
    shown = f"--storage {without_password(url)!r}"
    with database_errors(url):
        make_lease_table(engine)
        before = _take(engine, name, token, str(directory.absolute()), shown)

    def beat() -> bool:
        with engine.begin() as connection:
            return _beat(connection, name, token)

    try:
        with heartbeat(beat, BEAT_SECONDS):
            yield HeldLease(name, before, engine, token, shown)
    finally:
        # Where the database is away, others see that this process has ended, or wait.
        with contextlib.suppress(SQLAlchemyError), engine.begin() as connection:
            connection.execute(_change(name, token).values(heartbeat=None))


def make_lease_table(engine: Engine) -> None:
    """Make the table of leases in a database, unless it is there.

    Raises:
        SQLAlchemyError: If the database refuses.
    """
    try:
        LEASES.create_all(engine)
    except SQLAlchemyError:
        if not inspect(engine).has_table(_TABLE.name):  # Another process was faster.
            raise


def read_leases(connection: Connection) -> dict[str, Lease]:
    """Return the leases in a database by study, those that were given back included.

    Args:
        connection: Of the database.
    """
    if not inspect(connection).has_table(_TABLE.name):
        return {}
    rows = connection.execute(select(_TABLE, (_NOW - _TABLE.c.heartbeat).label("silence")))
    return {row["study"]: _lease(row) for row in rows.mappings()}


def _lease(row: Any) -> Lease:
    owner = read_owner(row) or Owner()
    silence = None if row["silence"] is None else float(row["silence"])
    return Lease(row["study"], owner, row["directory"], silence, row["token"])


def _take(engine: Engine, name: str, token: str, directory: str, shown: str) -> Lease | None:
    """Take a study's lease; return the lease that was taken over, if one was."""
    values = {"token": token, "directory": directory, "heartbeat": _NOW, **asdict(this_process())}
    for _ in range(_ATTEMPTS):
        with engine.connect() as connection:
            found = read_leases(connection).get(name)
        if found is not None and found.is_held():
            raise StudyBusyError(
                f"{shown}: the study {name!r} is being run already, by {found.owner.describe()} in"
                f" {found.directory}; wait for it, or give the study another name"
            )
        with contextlib.suppress(IntegrityError), engine.begin() as connection:
            if found is None:
                connection.execute(_TABLE.insert().values(study=name, **values))
                return None
            # Not if it was given back, taken, or heard of since it was read.
            unchanged = (
                _TABLE.c.heartbeat.is_(None)
                if found.silence is None
                else _NOW - _TABLE.c.heartbeat >= found.silence
            )
            taken = connection.execute(_change(name, found.token).where(unchanged).values(values))
            if taken.rowcount:
                return None if found.silence is None else found
    raise StudyBusyError(f"{shown}: several processes want the study {name!r}; try again")


def _change(name: str, token: str) -> Any:
    return update(_TABLE).where(_TABLE.c.study == name, _TABLE.c.token == token)


def _beat(connection: Connection, name: str, token: str) -> bool:
    """Say that the holder lives; return whether it still is the holder."""
    # A beat that was under way when the lease was given back must not take it again.
    held = _change(name, token).where(_TABLE.c.heartbeat.is_not(None))
    return bool(connection.execute(held.values(heartbeat=_NOW)).rowcount)


def _read_token(connection: Connection, name: str) -> str | None:
    found: str | None = connection.execute(
        select(_TABLE.c.token).where(_TABLE.c.study == name)
    ).scalar()
    return found
