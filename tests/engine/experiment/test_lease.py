"""One process at a time for a study in a shared database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal
from sqlalchemy import text

from qsearch.errors import InputError, StudyBusyError
from qsearch.experiment.lease import (
    Lease,
    LeaseLostError,
    make_lease_table,
    read_leases,
    study_lease,
)
from qsearch.experiment.url import open_engine
from qsearch.monitoring.events import Event
from qsearch.sharing.listing import list_database
from qsearch.storage.owner import STALE_SECONDS, this_process
from qsearch.study.run import run_study
from tests.engine.support import (
    command_environment,
    in_child,
    process_that_holds,
    results,
    study_spec,
)

HOLD = """
import sys, time
from pathlib import Path
from qsearch.experiment.lease import study_lease
with study_lease(sys.argv[1], "study", Path("/elsewhere")):
    print("held", flush=True)
    time.sleep(60)
"""
DIRECTORY = Path("/somewhere/run")


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)],
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    with process_that_holds(HOLD, url) as process:
        yield process


def lease_of(url: str, study: str = "study") -> Lease:
    with open_engine(url).connect() as connection:
        return read_leases(connection)[study]


def change(url: str, **values: Any) -> None:
    """Change the lease of the study in the database."""
    sets = ", ".join(f'"{name}" = :{name}' for name in values)
    with open_engine(url).begin() as connection:
        connection.execute(text(f"UPDATE qsearch_lease SET {sets}"), values)


def fall_silent(url: str, seconds: float) -> None:
    """Let the holder be heard of that many seconds ago for the last time."""
    with open_engine(url).begin() as connection:
        connection.execute(
            text("UPDATE qsearch_lease SET heartbeat = heartbeat - :seconds"),
            {"seconds": int(seconds)},
        )


ABROAD = {"host": "other", "kernel": "another kernel"}


def test_second_process_is_refused_and_told_who_holds_it(
    url: str, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(StudyBusyError) as caught, study_lease(url, "study", DIRECTORY):
        pass
    assert f"by process {holder.pid} on " in str(caught.value)
    assert "in /elsewhere" in str(caught.value)
    assert lease_of(url).owner.process == holder.pid


def test_studies_of_one_database_are_held_apart(url: str) -> None:
    with study_lease(url, "a", DIRECTORY), study_lease(url, "b", DIRECTORY):
        assert lease_of(url, "a").is_held()
        assert lease_of(url, "b").is_held()


def test_lease_tells_owner_and_directory_and_ends_with_the_work(url: str) -> None:
    with study_lease(url, "study", DIRECTORY) as held:
        assert held.taken_over is None
        assert held.is_ours()
        lease = lease_of(url)
        assert asdict(lease.owner) == asdict(replace(this_process(), since=lease.owner.since))
        assert lease.directory == str(DIRECTORY)
    assert not lease_of(url).is_held()
    with study_lease(url, "study", DIRECTORY) as again:
        assert again.taken_over is None


def test_an_exception_gives_the_lease_back(url: str) -> None:
    with pytest.raises(ValueError, match="inside"), study_lease(url, "study", DIRECTORY):
        raise ValueError("inside")
    assert lease_of(url).silence is None


def test_lease_of_a_killed_process_of_this_host_is_taken_over_at_once(
    url: str, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not lease_of(url).is_held()
    with study_lease(url, "study", DIRECTORY) as held:
        assert held.taken_over is not None
        assert held.taken_over.owner.process == holder.pid
        assert lease_of(url).owner.process == os.getpid()


def test_a_process_that_has_a_dead_holders_number_is_not_the_holder(url: str) -> None:
    with study_lease(url, "study", DIRECTORY):
        started = this_process().started
        assert started is not None
        change(url, started=started - 1000)
        assert not lease_of(url).is_held()


def test_lease_of_a_host_that_was_started_again_is_taken_over_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.owner._uptime", lambda: 60.0)
    with study_lease(url, "study", DIRECTORY):
        change(url, kernel="the one before")
        fall_silent(url, 50)
        assert lease_of(url).is_held(), "heard of since this host was started"
        fall_silent(url, 20)
        with study_lease(url, "study", DIRECTORY) as second:
            assert second.taken_over is not None


def test_silent_lease_of_another_host_is_taken_over_after_a_while(url: str) -> None:
    with study_lease(url, "study", DIRECTORY) as first:
        change(url, **ABROAD)
        fall_silent(url, STALE_SECONDS - 100)
        with pytest.raises(StudyBusyError), study_lease(url, "study", DIRECTORY):
            pass
        fall_silent(url, 101)
        with study_lease(url, "study", DIRECTORY) as second:
            assert second.taken_over is not None
            assert second.taken_over.owner.host == "other"
            assert not first.is_ours()
            assert second.is_ours()
        # The first ends without giving back what is not its own.
    assert lease_of(url).silence is None


def test_what_a_process_writes_after_its_lease_was_taken_is_not_kept(url: str) -> None:
    engine = open_engine(url)

    def write(value: int) -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO results VALUES (:value)"), {"value": value})
            first.require(connection)

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE results (value INTEGER)"))
    with study_lease(url, "study", DIRECTORY) as first:
        write(1)
        change(url, **ABROAD)
        fall_silent(url, STALE_SECONDS + 1)
        taken = pytest.raises(LeaseLostError, match="'study' was taken over")
        with study_lease(url, "study", DIRECTORY), taken:
            write(2)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT value FROM results")).scalars().all() == [1]


def test_holder_is_heard_of_while_it_holds(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsearch.experiment.lease.BEAT_SECONDS", 0.05)
    with study_lease(url, "study", DIRECTORY):
        fall_silent(url, 1000)
        deadline = time.monotonic() + 30
        while (lease_of(url).silence or 0) > 500:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_of_many_processes_one_gets_the_lease(url: str) -> None:
    make_lease_table(open_engine(url))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(),
        )
        for _ in range(4)
    ]
    try:
        deadline = time.monotonic() + 60
        while sum(racer.poll() is not None for racer in racers) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = [racer for racer in racers if racer.poll() is not None]
        assert len(refused) == 3
        for racer in refused:
            assert "StudyBusyError" in racer.communicate()[1]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


@pytest.mark.postgres
def test_database_that_is_away_for_a_while_costs_nothing(
    postgres_server: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.experiment.lease.BEAT_SECONDS", 0.05)
    with study_lease(postgres_url, "study", DIRECTORY) as held:
        postgres_server.kill()
        time.sleep(0.3)  # Some heartbeats fail.
        postgres_server.start()
        assert held.is_ours()
        fall_silent(postgres_url, 1000)
        deadline = time.monotonic() + 30
        while (lease_of(postgres_url).silence or 0) > 500:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.postgres
def test_study_that_ends_while_its_database_is_away_can_be_run_again(
    postgres_server: Any, postgres_url: str
) -> None:
    with study_lease(postgres_url, "study", DIRECTORY):
        postgres_server.stop()
    postgres_server.start()
    change(postgres_url, started=1.0)  # As that process's lease looks when it has ended.
    with study_lease(postgres_url, "study", DIRECTORY) as held:
        assert held.taken_over is not None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "Could not parse"),
        ("sqlite:////dev/null/no/study.db", "unable to open database file"),
        ("nosuchdatabase://host/name", "Can't load plugin"),
        ("postgresql://ana:hunter2@/none?host=/nowhere", "/nowhere"),
    ],
)
def test_database_that_cannot_be_used_is_named(url: str, reason: str) -> None:
    with pytest.raises(InputError) as caught, study_lease(url, "study", DIRECTORY):
        pass
    assert str(caught.value).startswith("--storage ")
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


# A study of the same name that is another directory's


def started_elsewhere(directory: Path, url: str) -> str:
    """Start the study in a directory, as another process does; return why it was refused."""
    said = directory.with_suffix(".said")

    def start() -> None:
        with pytest.raises(InputError) as caught:
            run_study(study_spec(), directory, url)
        said.write_text(str(caught.value))

    assert in_child(start) == 0
    return said.read_text()


def test_a_study_of_the_same_name_takes_no_lease_that_is_stale_after_an_outage(
    finished: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    refused: list[str] = []

    def observe(event: Event) -> None:
        if event.kind == "evaluated" and not refused:
            fall_silent(url, STALE_SECONDS + 1)
            refused.append(started_elsewhere(tmp_path / "other", url))

    run_study(study_spec(), tmp_path / "run", url, observe)
    assert "belongs to another study directory" in refused[0]
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def test_a_start_that_is_refused_leaves_the_directory_that_is_listed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    run_study(study_spec(search__rounds=1), tmp_path / "run", url)
    assert "belongs to another study directory" in started_elsewhere(tmp_path / "other", url)
    (listed,) = list_database(url)
    assert listed.directory == str(tmp_path / "run")
