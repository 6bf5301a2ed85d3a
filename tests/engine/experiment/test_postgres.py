"""Studies in a PostgreSQL database: as in SQLite, several at once, read while they are written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal
from sqlalchemy import text

from qsearch.errors import InputError, StudyBusyError
from qsearch.experiment.lease import Lease, LeaseLostError, study_lease
from qsearch.experiment.loading import read_experiment
from qsearch.experiment.url import open_engine
from qsearch.monitoring.events import Event, Observer
from qsearch.sharing.listing import list_database
from qsearch.study.run import run_study
from tests.engine.support import (
    command,
    command_environment,
    in_child,
    make_tables_at_once,
    results,
    study_spec,
    write_study_yaml,
)
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.postgres


def test_results_are_those_of_sqlite(finished: Path, postgres_url: str, tmp_path: Path) -> None:
    run_study(study_spec(), tmp_path / "run", postgres_url)
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert not (tmp_path / "run" / "study.db").exists()


def test_finished_study_is_recognised_by_another_url_of_its_database(
    postgres_url: str, tmp_path: Path
) -> None:
    spec = study_spec(search__rounds=1)
    run_study(spec, tmp_path / "run", postgres_url)
    before = results(tmp_path / "run")
    kinds: list[str] = []
    url = postgres_url.replace("postgresql:", "postgresql+psycopg2:")
    run_study(spec, tmp_path / "run", url, lambda event: kinds.append(event.kind))
    assert not {"training", "evaluated"} & set(kinds)
    assert_frame_equal(results(tmp_path / "run"), before, check_exact=True)


def test_names_longer_than_ax_declares_are_kept(postgres_url: str, tmp_path: Path) -> None:
    """Such a model makes a node of more characters than the 4,096 of its column in Ax."""
    spec = study_spec(trainer__blocks=16, search__rounds=1, search__candidates=1)
    run_study(spec, tmp_path / "run", postgres_url)
    with open_engine(postgres_url).connect() as connection:
        query = text("SELECT max(length(nodes)) FROM generation_strategy")
        assert connection.execute(query).scalar() > 4096


def test_several_processes_make_the_tables_at_once(postgres_url: str) -> None:
    assert make_tables_at_once(postgres_url) == [0, 0, 0, 0]
    assert list_database(postgres_url) == []


def test_two_studies_write_into_one_database_while_others_read(
    finished: Path, postgres_url: str, tmp_path: Path
) -> None:
    names = ("first", "second")
    writers = []
    for name in names:
        # Slow enough that readers meet each at work.
        study = write_study_yaml(tmp_path / f"{name}.yaml", name=name, trainer__seconds=0.1)
        arguments = ["run", str(study), "--out", str(tmp_path / name), "--storage", postgres_url]
        writers.append(
            subprocess.Popen(
                [sys.executable, "-m", "qsearch", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=command_environment(),
            )
        )
    loaded_at_work: dict[str, set[int]] = {name: set() for name in names}
    listed_at_work = 0
    while any(writer.poll() is None for writer in writers):
        listed = list_database(postgres_url)
        listed_at_work += all(study.running for study in listed) and len(listed) == 2
        for study in listed:
            if study.completed:
                experiment = read_experiment(postgres_url, study.name)
                done = experiment.lookup_data().full_df["trial_index"].nunique()
                assert done >= study.completed
                loaded_at_work[study.name].add(done)
    for name, writer in zip(names, writers, strict=True):
        assert writer.returncode == 0, writer.communicate()[0]
        writer.communicate()
        assert_frame_equal(results(tmp_path / name), results(finished), check_exact=True)
        assert len(loaded_at_work[name]) > 1
    assert listed_at_work > 1


def test_study_that_runs_elsewhere_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """Two directories, as on two hosts, know nothing of each other's locks."""
    with (
        study_lease(postgres_url, "fake"),
        pytest.raises(StudyBusyError, match="'fake' is being run already"),
    ):
        run_study(study_spec(), tmp_path / "run", postgres_url)


def test_a_study_that_another_process_took_over_saves_nothing_more_and_stops(
    postgres_url: str, tmp_path: Path
) -> None:
    """As after a while disconnected from the database, in which its lease was free."""
    other = Lease(postgres_url, "fake")

    def lose_it(event: Event) -> None:
        if event.kind == "evaluated" and event.fields["done"] == 3:
            with open_engine(postgres_url).connect() as connection:
                ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                connection.execute(text(f"{ended} WHERE application_name LIKE 'process %'"))
            assert other.take(open_engine(postgres_url)) is None

    with pytest.raises(LeaseLostError, match="was taken over by process"):
        run_study(study_spec(), tmp_path / "run", postgres_url, lose_it)
    (listed,) = list_database(postgres_url)
    assert listed.completed == 3
    other.release()


def test_a_study_whose_lease_was_lost_for_a_moment_goes_on_to_the_same_result(
    finished: Path, postgres_url: str, tmp_path: Path
) -> None:
    kinds: list[str] = []

    def lose_it(event: Event) -> None:
        kinds.append(event.kind)
        if kinds.count("evaluated") == 3 and event.kind == "evaluated":
            with open_engine(postgres_url).connect() as connection:
                ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                connection.execute(text(f"{ended} WHERE application_name LIKE 'process %'"))

    run_study(study_spec(), tmp_path / "run", postgres_url, lose_it)
    assert kinds.count("storage lost") == kinds.count("storage back") == 1
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def test_a_study_says_whom_it_was_taken_over_from(
    finished: Path, postgres_url: str, tmp_path: Path
) -> None:
    def die(event: Event) -> None:
        if event.kind == "evaluated":
            os._exit(1)

    assert in_child(lambda: run_quietly(tmp_path / "run", postgres_url, die)) == 1
    seen: list[Event] = []
    run_quietly(tmp_path / "run", postgres_url, seen.append)
    (taken,) = [event for event in seen if event.kind == "taken over"]
    assert socket.gethostname() in str(taken.fields["owner"])
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def run_quietly(directory: Path, url: str, observer: Observer) -> None:
    run_study(study_spec(), directory, url, observer)


def test_command_line_runs_and_lists_and_shows_no_password(
    postgres_url: str, tmp_path: Path
) -> None:
    """The server asks for no password, so any will do."""
    url = postgres_url.replace("qsearch@", "qsearch:hunter2@")
    study = write_study_yaml(tmp_path / "my.yaml", search__rounds=1, search__candidates=1)
    ran = command(["run", study, "--out", tmp_path / "run", "--storage", url])
    assert ran.returncode == 0, ran.stderr
    listed = command(["list", "--storage", url, "--json"])
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["completed"], row["running"]) == ("fake", 7, "")
    gone = command(["list", "--storage", f"{url}&port=1"])
    assert gone.returncode == 2
    for output in (ran, listed, gone):
        assert "hunter2" not in output.stdout + output.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_missing_database_is_named(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='database "nowhere" does not exist'):
        run_study(study_spec(), tmp_path / "run", postgres_server.url("nowhere"))
