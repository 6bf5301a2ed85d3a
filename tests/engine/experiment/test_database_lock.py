"""One process at a time for a study in a PostgreSQL database."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from qsearch.errors import StudyBusyError
from qsearch.experiment import database_lock
from qsearch.experiment.database import is_disconnect
from qsearch.experiment.database_lock import (
    DatabaseLock,
    LockLostError,
    hold_study,
    lock_holders,
    lock_key,
)
from qsearch.experiment.url import open_engine
from tests.engine.fake_study import process_that_holds

HOLD = """
import signal, sys
from qsearch.experiment.database_lock import hold_study
with hold_study(sys.argv[1], "study"):
    print("held", flush=True)
    signal.pause()
"""


@contextmanager
def refused_at_once() -> Iterator[None]:
    """Wait for no lock that another holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_lock, "_PATIENCE_SECONDS", 0.0)
        yield


def holders(url: str) -> dict[int, str]:
    with open_engine(url).connect() as connection:
        return lock_holders(connection)


def end_connections(url: str) -> None:
    """End the connections that hold locks, as a network that fails does."""
    with open_engine(url).connect() as connection:
        ended = "SELECT pg_terminate_backend(pid, 500000) FROM pg_stat_activity"
        answers = connection.execute(text(f"{ended} WHERE application_name LIKE 'process %'"))
        assert set(answers.scalars()) == {True}


@pytest.fixture
def holder(postgres_url: str) -> Iterator[subprocess.Popen[str]]:
    with process_that_holds(HOLD, postgres_url) as process:
        yield process


@pytest.mark.postgres
def test_second_process_is_refused_and_told_who_holds_it(
    postgres_url: str, holder: subprocess.Popen[str]
) -> None:
    expected = f"'study' is being run already, by process {holder.pid} on "
    with (
        refused_at_once(),
        pytest.raises(StudyBusyError, match=expected),
        hold_study(postgres_url, "study"),
    ):
        pass


@pytest.mark.postgres
def test_lock_of_a_killed_process_is_free(postgres_url: str, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    with hold_study(postgres_url, "study"):
        assert holders(postgres_url)[lock_key("study")].startswith(f"process {os.getpid()} on ")


@pytest.mark.postgres
def test_studies_of_one_database_are_held_apart_until_their_work_ends(postgres_url: str) -> None:
    with hold_study(postgres_url, "a"), hold_study(postgres_url, "b"):
        assert holders(postgres_url).keys() == {lock_key("a"), lock_key("b")}
    with pytest.raises(ValueError, match="inside"), hold_study(postgres_url, "a"):
        raise ValueError("inside")
    with hold_study(postgres_url, "a"), hold_study(postgres_url, "b"):
        pass


@pytest.mark.postgres
def test_a_disconnected_process_writes_nothing_once_another_holds_it(postgres_url: str) -> None:
    engine = open_engine(postgres_url)

    def write(value: int) -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO results VALUES (:value)"), {"value": value})
            first.require(connection)

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE results (value INTEGER)"))
    with hold_study(postgres_url, "study") as first:
        assert first is not None
        write(1)
        end_connections(postgres_url)
        with hold_study(postgres_url, "study"):
            for _ in range(2):
                with pytest.raises(DBAPIError) as caught:
                    write(2)
                assert is_disconnect(caught.value)
            expected = "'study' was taken over by process"
            with refused_at_once(), pytest.raises(LockLostError, match=expected):
                first.renew(engine)
        first.renew(engine)
        write(3)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT value FROM results")).scalars().all() == [1, 3]


@pytest.mark.postgres
def test_nobody_takes_a_study_within_a_transaction_of_its_holder(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    other = DatabaseLock(postgres_url, "study")
    with hold_study(postgres_url, "study") as first:
        assert first is not None
        with engine.begin() as connection:
            first.require(connection)
            end_connections(postgres_url)
            with refused_at_once():
                assert other.take(engine) is not None
        assert other.take(engine) is None
        other.release()


@pytest.mark.postgres
def test_study_that_ends_while_its_database_is_away_can_be_run_again(
    postgres_server: Any, postgres_url: str
) -> None:
    with hold_study(postgres_url, "study"):
        postgres_server.stop()
    postgres_server.start()
    with hold_study(postgres_url, "study") as held:
        assert held is not None


def test_sqlite_needs_no_lock(tmp_path: Path) -> None:
    with hold_study(f"sqlite:///{tmp_path / 'shared.db'}", "study") as held:
        assert held is None
    assert list(tmp_path.iterdir()) == []
