"""Databases that go away while a study runs, and come back."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from ax.api.client import Client
from ax.storage.sqa_store.db import get_engine
from pandas.testing import assert_frame_equal
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url

from qsearch.errors import InputError, QsearchError
from qsearch.experiment.client import open_client
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.reconnecting import ReconnectPolicy, is_disconnect, wait_for_connections
from qsearch.monitoring.events import Event
from qsearch.study.run import run_study
from tests.engine.support import in_child, make_space, results, study_spec
from tests.postgres_server import PostgresServer


def told(directory: Path, kind: str) -> list[dict[str, Any]]:
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == kind]


class Outage:
    """Takes a server away once, and brings it back some seconds later."""

    def __init__(self, server: PostgresServer, seconds: float, how: str = "kill") -> None:
        self._server, self._seconds, self._how = server, seconds, how
        self._thread: threading.Thread | None = None

    @property
    def happened(self) -> bool:
        return self._thread is not None

    def begin(self) -> None:
        if not self.happened:
            getattr(self._server, self._how)()
            self._thread = threading.Thread(target=self._end)
            self._thread.start()

    def _end(self) -> None:
        time.sleep(self._seconds)
        self._server.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()


@pytest.fixture
def outage(postgres_server: PostgresServer) -> Any:
    """Makes outages, and has the server running again afterwards."""
    made: list[Outage] = []

    def make(seconds: float, how: str = "kill") -> Outage:
        made.append(Outage(postgres_server, seconds, how))
        return made[-1]

    yield make
    for one in made:
        one.wait()
    if not postgres_server.is_running():
        postgres_server.start()


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_study_waits_for_its_database_and_loses_nothing(
    how: str, finished: Path, tmp_path: Path, postgres_url: str, outage: Callable[..., Outage]
) -> None:
    one = outage(3, how)

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated" and happened.fields["done"] == 3:
            one.begin()

    run_study(study_spec(), tmp_path / "run", postgres_url, observer=observe)
    assert one.happened
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert len(told(tmp_path / "run", "storage lost")) == 1
    assert told(tmp_path / "run", "storage back")[0]["seconds"] >= 1
    evaluated = told(tmp_path / "run", "evaluated")
    assert len(evaluated) == len(results(finished)), "an evaluation was lost, and done again"


@pytest.mark.postgres
@pytest.mark.parametrize("statement", [3, 30, 60, 90])
def test_a_database_that_dies_within_a_transaction_loses_nothing(
    statement: int,
    finished: Path,
    tmp_path: Path,
    postgres_url: str,
    outage: Callable[..., Outage],
) -> None:
    """Counted from the first round on: the server dies just before a statement that writes."""
    one = outage(1)
    started = threading.Event()
    count = 0

    def before(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        nonlocal count
        if started.is_set() and text.startswith(("INSERT", "UPDATE", "DELETE")):
            count += 1
            if count == statement:
                one.begin()

    def observe(happened: Event) -> None:
        if happened.kind == "round started":
            started.set()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        run_study(study_spec(), tmp_path / "run", postgres_url, observer=observe)
    finally:
        event.remove(Engine, "before_cursor_execute", before)
    assert one.happened
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert len(told(tmp_path / "run", "storage lost")) == 1
    assert len(told(tmp_path / "run", "storage back")) == 1


@pytest.mark.postgres
def test_a_database_that_stays_away_ends_the_study_with_one_message_and_it_resumes(
    finished: Path, tmp_path: Path, postgres_url: str, outage: Callable[..., Outage]
) -> None:
    one = outage(8)
    said = tmp_path / "said"

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated":
            one.begin()

    def run() -> None:
        try:
            run_study(study_spec(), tmp_path / "run", postgres_url, observe, storage_wait=1.0)
        except QsearchError as error:
            said.write_text(str(error))
        one.wait()

    # In a process that ends with the message: one that lives on keeps the study's lease a while.
    assert in_child(run) == 0
    message = said.read_text()
    assert "could not be reached for" in message
    assert "the same command resumes" in message
    run_study(study_spec(), tmp_path / "run", postgres_url)
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


@pytest.mark.postgres
def test_a_database_that_is_away_at_the_start_is_told_at_once(
    tmp_path: Path, postgres_url: str, postgres_server: PostgresServer
) -> None:
    postgres_server.stop()
    try:
        with pytest.raises(InputError, match=r"--storage .* cannot be used"):
            run_study(study_spec(), tmp_path / "run", postgres_url)
    finally:
        postgres_server.start()


def test_another_process_that_writes_for_long_is_waited_for(finished: Path, tmp_path: Path) -> None:
    """SQLite has one writer at a time, and tells the others to go away after five seconds."""
    path = tmp_path / "shared.db"
    other = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
    done = threading.Event()

    def write() -> None:
        with other.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            done.wait(8)

    thread = threading.Thread(target=write)

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated" and not thread.ident:
            thread.start()
            time.sleep(0.5)

    run_study(study_spec(), tmp_path / "run", f"sqlite:///{path}", observer=observe)
    done.set()
    thread.join()
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert "locked" in told(tmp_path / "run", "storage lost")[0]["reason"]


def test_other_errors_of_a_database_are_no_outage() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught, engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert not is_disconnect(caught.value)
    assert not is_disconnect(ValueError("database is locked"))


class Clock:
    """Time that passes when it is told to, in place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("qsearch.experiment.reconnecting.time", made)
    return made


@pytest.mark.parametrize("evaluation", [0, 60, 1800])
def test_failing_again_and_again_ends_in_one_message_however_long_an_evaluation_takes(
    evaluation: float, clock: Clock
) -> None:
    reconnecting = ReconnectPolicy(seconds=900)

    def fail_again_and_again() -> None:
        for _ in range(100):
            clock.now += evaluation
            reconnecting.pause(OSError("gone"), saved=7)

    with pytest.raises(QsearchError, match="the database has failed for"):
        fail_again_and_again()
    assert clock.now <= max(900 + 2 * 60, 3 * evaluation + 1)


def test_what_was_saved_between_two_outages_sets_them_apart(clock: Clock) -> None:
    reconnecting = ReconnectPolicy(seconds=900)
    for saved in range(100):
        clock.now += 60
        reconnecting.pause(OSError("gone"), saved)


def test_second_outage_after_a_long_evaluation_is_waited_for(clock: Clock) -> None:
    reconnecting = ReconnectPolicy(seconds=900)
    reconnecting.pause(OSError("gone"), saved=7)
    clock.now += 3600
    reconnecting.pause(OSError("gone"), saved=7)


def test_pauses_grow_to_a_quarter_of_a_minute(clock: Clock) -> None:
    reconnecting = ReconnectPolicy(seconds=900)
    pauses = []
    for _ in range(9):
        before = clock.now
        reconnecting.pause(OSError("gone"), saved=7)
        pauses.append(clock.now - before)
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_study_that_can_save_nothing_stops_and_resumes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database can be opened again and again, but each save of a new loss is cut off."""
    # Each try takes longer than many pauses.
    monkeypatch.setattr("qsearch.experiment.reconnecting._LONGEST_PAUSE", 0.01)
    database = tmp_path / "run" / "study.db"

    def change(statement: str) -> None:
        with sqlite3.connect(database) as connection:
            connection.execute(statement)
        connection.close()

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated":
            change(
                "CREATE TRIGGER away BEFORE INSERT ON data_v2 WHEN NEW.trial_index = 1"
                " BEGIN SELECT RAISE(ABORT, 'database is locked'); END"
            )

    with pytest.raises(QsearchError, match=r"failed for .* the same command resumes"):
        run_study(study_spec(), tmp_path / "run", observer=observe, storage_wait=0.3)
    change("DROP TRIGGER away")
    run_study(study_spec(), tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def test_an_outage_while_the_experiment_is_loaded_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as of the share that holds the file: nothing is to be restored then."""
    space = make_space(1)
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "share").mkdir()
    load = Client.load_from_database

    def open_again() -> None:
        url = f"sqlite:///{tmp_path / 'share' / 'shared.db'}"
        node = QsearchNode(space, (2.5, 6.0), seed=1)
        open_client(tmp_path / "run", url, "fake", space, node, "accuracy", impatient)

    def impatient(engine: Engine) -> None:
        wait_for_connections(engine, 0.0, lambda kind, **fields: None)

    def load_without_the_share(*arguments: Any, **named: Any) -> Client:
        get_engine().dispose()
        (tmp_path / "share").rename(tmp_path / "away")
        return load(*arguments, **named)

    open_again()
    monkeypatch.setattr(Client, "load_from_database", load_without_the_share)
    with pytest.raises(QsearchError) as caught:
        open_again()
    assert str(caught.value).startswith("the database could not be reached for")
    assert "the same command resumes" in str(caught.value)


@pytest.mark.postgres
def test_a_server_that_is_read_only_while_another_takes_over_is_waited_for(
    finished: Path, tmp_path: Path, postgres_url: str, postgres_server: PostgresServer
) -> None:
    name = make_url(postgres_url).database

    def take_over() -> None:
        time.sleep(1)
        postgres_server.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')

    other = threading.Thread(target=take_over)

    def observe(happened: Event) -> None:
        if happened.kind == "evaluated" and not other.ident:
            postgres_server.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only=on')
            postgres_server.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='{name}'"
            )
            other.start()

    run_study(study_spec(), tmp_path / "run", postgres_url, observer=observe)
    other.join()
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert "read-only transaction" in told(tmp_path / "run", "storage lost")[0]["reason"]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("state", "away"),
    [
        ("40P01", True),  # Deadlock.
        ("40001", True),  # Not serializable.
        ("57P01", True),  # Shut down by its administrator.
        ("53100", False),  # Its disk is full.
        ("42501", False),  # Not allowed.
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
