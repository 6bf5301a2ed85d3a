"""Databases that go away while a study runs, and come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pandas.testing import assert_frame_equal
from sqlalchemy import event
from sqlalchemy.engine import Engine

from qsearch.errors import InputError, QsearchError
from qsearch.events import Event
from qsearch.patience import Reconnecting, was_cut_off
from qsearch.study import run_study
from tests.engine.support import in_child, results, study_spec
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
    assert not was_cut_off(caught.value)
    assert not was_cut_off(ValueError("database is locked"))


def test_failing_again_and_again_ends_in_one_message() -> None:
    reconnecting = Reconnecting(seconds=0.3)

    def fail_again_and_again() -> None:
        for _ in range(100):
            reconnecting.pause(OSError("gone"))

    with pytest.raises(QsearchError, match="the database has failed for"):
        fail_again_and_again()
