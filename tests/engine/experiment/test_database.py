"""Databases: whole transactions, and what happens when they go away while a study runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy
from ax.storage.sqa_store.db import session_scope
from pandas.testing import assert_frame_equal
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from qsearch.errors import QsearchError
from qsearch.experiment.database import Database, is_disconnect
from qsearch.monitoring.events import Event, EventKind
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAILING, events_of, results
from tests.postgres_server import PostgresServer

LOCKED = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is slept between attempts, which then takes no time."""
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    return slept


def open_table(folder: Path, events: list[Any], wait: float = 900.0) -> Database:
    """A database with a table of numbers."""

    def emit(kind: EventKind, round: int | None = None, **fields: object) -> None:
        events.append(kind)

    database = Database(f"sqlite:///{folder / 'numbers.db'}", "--storage", wait, emit)
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE numbers (value INTEGER)"))
    return database


def insert(value: int) -> None:
    """Insert a number as Ax does: in a session of its own, which it commits."""
    with session_scope() as session:
        session.execute(text(f"INSERT INTO numbers VALUES ({value})"))


def numbers_in(database: Database) -> list[int]:
    with database.engine.connect() as connection:
        return [row[0] for row in connection.execute(text("SELECT value FROM numbers"))]


def failing(times: int, error: Exception) -> Callable[[], None]:
    """A save of two numbers, between which the database fails for some times."""
    left = times

    def save() -> None:
        nonlocal left
        insert(1)
        if left:
            left -= 1
            raise error
        insert(2)

    return save


def test_what_is_saved_while_the_database_is_away_is_saved_once_after_ever_longer_pauses(
    tmp_path: Path, pauses: list[float]
) -> None:
    events: list[Any] = []
    reloads: list[Any] = []
    with closing(open_table(tmp_path, events)) as database:
        database.write(failing(9, LOCKED), partial(reloads.append, "again"))
        assert numbers_in(database) == [1, 2]
    assert reloads == 9 * ["again"]
    assert events == [EventKind.STORAGE_LOST, EventKind.STORAGE_BACK]
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_database_that_stays_away_ends_in_one_message_after_three_attempts(
    tmp_path: Path, pauses: list[float]
) -> None:
    """Two attempts that each take long may be two outages."""
    events: list[Any] = []
    said = r"could not be used for .*database is locked.* the same command resumes"
    with closing(open_table(tmp_path, events, wait=0.0)) as database:
        with pytest.raises(QsearchError, match=said) as caught:
            database.write(failing(9, LOCKED), lambda: None)
        assert type(caught.value) is QsearchError, "exit code 1"
        assert numbers_in(database) == []
    assert len(pauses) == 2
    assert events == [EventKind.STORAGE_LOST]


def test_a_database_is_waited_for_as_long_as_told_from_the_first_attempt_on(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000 + sum(pauses))
    said = "could not be used for 61 s: database is locked"
    table = closing(open_table(tmp_path, [], wait=60.0))
    with table as database, pytest.raises(QsearchError, match=said):
        database.write(failing(99, LOCKED), lambda: None)
    assert sum(pauses) == 60.75


def test_an_outage_while_the_experiment_is_loaded_again_is_the_same_outage(
    tmp_path: Path, pauses: list[float]
) -> None:
    events: list[Any] = []
    outages = iter([LOCKED])

    def reload() -> None:
        for error in outages:
            raise error

    with closing(open_table(tmp_path, events)) as database:
        database.write(failing(1, LOCKED), reload)
        assert numbers_in(database) == [1, 2]
    assert events == [EventKind.STORAGE_LOST, EventKind.STORAGE_BACK]
    assert len(pauses) == 2


def test_other_errors_of_a_database_are_not_waited_for(tmp_path: Path, pauses: list[float]) -> None:
    with closing(open_table(tmp_path, [])) as database:
        other = OperationalError("INSERT", {}, sqlite3.OperationalError("no such table"))
        with pytest.raises(OperationalError):
            database.write(failing(1, other), lambda: None)
        assert not is_disconnect(ValueError("database is locked"))
    assert pauses == []


def test_a_connection_that_cannot_be_made_is_waited_for(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Engine.connect
    refusals = iter([True, True, False])

    def refuse(self: Engine) -> Any:
        if next(refusals, False):
            raise OperationalError("", {}, sqlite3.OperationalError("connection refused"))
        return connect(self)

    with closing(open_table(tmp_path, [])) as database:
        monkeypatch.setattr(Engine, "connect", refuse)
        database.write(failing(0, LOCKED), lambda: None)
        assert numbers_in(database) == [1, 2]
    assert len(pauses) == 2


# Whole studies


def test_another_process_that_writes_for_long_is_waited_for(
    uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    """SQLite has one writer at a time, and refuses the others after a while."""
    path = tmp_path / "shared.db"
    other = sqlite3.connect(path, isolation_level=None, timeout=30)

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated" and not events_of(tmp_path / "run", "storage lost"):
            other.execute("BEGIN IMMEDIATE")
        elif happened.kind == "storage lost":
            other.execute("ROLLBACK")

    def hurry(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA busy_timeout = 10")

    event.listen(Engine, "connect", hurry)
    try:
        url = f"sqlite:///{path}"
        run_spec(FAILING, tmp_path / "run", url, observe)
    finally:
        event.remove(Engine, "connect", hurry)
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
    assert "locked" in events_of(tmp_path / "run", "storage lost")[0]["reason"]


def test_a_study_that_can_save_nothing_stops_and_resumes(
    uninterrupted: pd.DataFrame, tmp_path: Path, pauses: list[float]
) -> None:
    """Its database can be opened again and again, but each save of a new loss fails."""
    database = tmp_path / "run" / "study.db"

    def change(statement: str) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)

    def observe(happened: Event) -> None:
        if happened.kind == "evaluating the set":
            change(
                "CREATE TRIGGER away BEFORE INSERT ON data_v2 WHEN NEW.trial_index = 1"
                " BEGIN SELECT RAISE(ABORT, 'database is locked'); END"
            )

    said = r"could not be used for .* the same command resumes"
    with pytest.raises(QsearchError, match=said) as caught:
        run_spec(FAILING, tmp_path / "run", observer=observe, storage_wait=0.0)
    assert type(caught.value) is QsearchError, "exit code 1"
    change("DROP TRIGGER away")
    run_spec(FAILING, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)


@pytest.mark.postgres
@pytest.mark.parametrize("statement", [None, 2, 25])
def test_a_study_waits_for_its_database_and_loses_nothing(
    statement: int | None,
    uninterrupted: pd.DataFrame,
    tmp_path: Path,
    postgres_url: str,
    postgres_server: PostgresServer,
) -> None:
    """The server is stopped between two evaluations, or dies just before a statement that writes,
    counted from the first round on."""
    count = 0

    def before(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        nonlocal count
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            count += bool(events_of(tmp_path / "run", "round started"))
            if count == statement:
                count += 1
                postgres_server.kill()

    def observe(happened: Event) -> None:
        if happened.kind == "storage lost":
            postgres_server.start()
        is_second = happened.kind == "evaluated" and happened.fields["trial"] == 1
        if is_second and happened.round == 1 and statement is None:
            postgres_server.stop()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        run_spec(FAILING, tmp_path / "run", postgres_url, observer=observe)
    finally:
        event.remove(Engine, "before_cursor_execute", before)
        if not postgres_server.is_running():
            postgres_server.start()
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
    assert len(events_of(tmp_path / "run", "storage lost")) == 1
    assert len(events_of(tmp_path / "run", "storage back")) == 1
    done = [*events_of(tmp_path / "run", "evaluated"), *events_of(tmp_path / "run", "failed")]
    assert len(done) == len(uninterrupted), "an evaluation was lost, and done again"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("state", "away"),
    [
        ("25006", True),  # Read-only, while another server takes over.
        ("40P01", True),  # Deadlock.
        ("40001", True),  # Not serializable.
        ("57P01", True),  # Shut down by its administrator.
        ("53100", False),  # Its disk is full.
    ],
)
def test_codes_of_postgresql_tell_an_outage_from_other_errors(
    state: str, away: bool, postgres_url: str
) -> None:
    engine = sqlalchemy.create_engine(postgres_url)
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(sqlalchemy.exc.DBAPIError) as caught, engine.connect() as connection:
        connection.exec_driver_sql(raising)
    assert is_disconnect(caught.value) == away
