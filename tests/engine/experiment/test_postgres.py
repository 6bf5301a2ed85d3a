"""Studies in a PostgreSQL database: as in SQLite, several at once, read while they are written."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from sqlalchemy import text
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.errors import StudyBusyError
from qsearch.experiment.database_lock import DatabaseLock, LockLostError, hold_study
from qsearch.experiment.loading import open_database, open_trials, read_experiment
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.url import open_engine
from qsearch.monitoring.events import Event
from qsearch.sharing.listing import list_database
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.directory import prepare_directory
from qsearch.study.run import run_spec
from tests.engine.experiment.test_database_lock import end_connections, refused_at_once
from tests.engine.fake_study import (
    FAILING,
    FAULTS,
    INTEGER,
    SMALL,
    events_of,
    in_child,
    make_space,
    make_tables_at_once,
    results,
    study_spec,
    write_study_yaml,
)

pytestmark = pytest.mark.postgres


def test_finished_study_is_recognised_by_another_url(postgres_url: str, tmp_path: Path) -> None:
    spec = study_spec(**SMALL, search__rounds=1)
    run_spec(spec, tmp_path / "run", postgres_url)
    before = results(tmp_path / "run")
    kinds: list[str] = []
    url = postgres_url.replace("postgresql:", "postgresql+psycopg2:")
    run_spec(spec, tmp_path / "run", url, lambda event: kinds.append(event.kind))
    assert not {"training", "evaluated"} & set(kinds)
    assert_frame_equal(results(tmp_path / "run"), before, check_exact=True)


def test_nodes_longer_than_ax_declares_are_kept(postgres_url: str, tmp_path: Path) -> None:
    """Such a model makes a node of more characters than the 4,096 of its column in Ax."""
    prepare_directory(tmp_path)
    space = make_space(16, INTEGER)
    with closing(open_database(tmp_path, postgres_url)) as database:
        open_trials(
            database, tmp_path, "large", space, ["accuracy"], QsearchNode(space, (2.5, 6.0))
        )
    with open_engine(postgres_url).connect() as connection:
        query = text("SELECT max(length(nodes)) FROM generation_strategy")
        assert connection.execute(query).scalar() > 4096


def test_two_processes_make_the_tables_at_once(postgres_url: str) -> None:
    assert make_tables_at_once(postgres_url) == [0, 0]
    assert list_database(postgres_url) == []


class Writer:
    """A study in a process of its own, which waits where evaluations are done, until it may go on.

    Args:
        spec: The study.
        waits: After how many evaluations.
    """

    def __init__(self, spec: StudySpec, directory: Path, url: str, waits: Sequence[int]) -> None:
        fork = multiprocessing.get_context("fork")
        self.waits, self.evaluated = waits, 0
        self.arrived, self.may_go_on = fork.Semaphore(0), fork.Semaphore(0)
        arguments = spec, directory, url, self.observe
        self.process = fork.Process(target=run_spec, args=arguments, daemon=True)
        self.process.start()

    def observe(self, event: Event) -> None:
        self.evaluated += event.kind == "evaluated"
        if event.kind == "evaluated" and self.evaluated in self.waits:
            self.arrived.release()
            assert self.may_go_on.acquire(timeout=500)


def read_completed(url: str) -> dict[str, int]:
    """Read all studies of a database; return how many evaluations of each were completed."""
    completed = {}
    for study in list_database(url):
        data = read_experiment(url, study.name).lookup_data().full_df
        completed[study.name] = data["trial_index"].nunique()
        assert completed[study.name] >= study.completed, "none is lost between the two readings"
    return completed


def test_two_studies_write_into_one_database_while_others_read(
    uninterrupted: pd.DataFrame, postgres_url: str, tmp_path: Path
) -> None:
    names, waits = ("first", "second"), (2, 4)
    changes = {**SMALL, "trainer__faults": FAULTS}
    writers = [
        Writer(study_spec(**changes, name=name), tmp_path / name, postgres_url, waits)
        for name in names
    ]
    for count in waits:
        assert all(writer.arrived.acquire(timeout=500) for writer in writers)
        assert all(study.running for study in list_database(postgres_url))
        assert read_completed(postgres_url) == dict.fromkeys(names, count)
        for writer in writers:
            writer.may_go_on.release()
        read_completed(postgres_url)  # While they write.
    for name, writer in zip(names, writers, strict=True):
        writer.process.join()
        assert writer.process.exitcode == 0
        assert_frame_equal(results(tmp_path / name), uninterrupted, check_exact=True)


def test_study_that_runs_elsewhere_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """Two directories, as on two hosts, know nothing of each other's locks."""
    with (
        hold_study(postgres_url, "fake"),
        refused_at_once(),
        pytest.raises(StudyBusyError, match="'fake' is being run already"),
    ):
        run_spec(FAILING, tmp_path / "run", postgres_url)


def test_a_study_that_another_process_took_over_saves_nothing_more_and_stops(
    postgres_url: str, tmp_path: Path
) -> None:
    """As after a while disconnected from the database, in which its lock was free."""
    other = DatabaseLock(postgres_url, "fake")

    def lose_it(event: Event) -> None:
        if event.kind == "evaluated" and event.fields["done"] == 2:
            end_connections(postgres_url)
            assert other.take(open_engine(postgres_url)) is None

    with refused_at_once(), pytest.raises(LockLostError, match="was taken over by process"):
        run_spec(FAILING, tmp_path / "run", postgres_url, lose_it)
    (listed,) = list_database(postgres_url)
    assert listed.completed == 2
    other.release()


def test_a_study_says_whom_it_was_taken_over_from(
    uninterrupted: pd.DataFrame, postgres_url: str, tmp_path: Path
) -> None:
    def die(event: Event) -> None:
        if event.kind == "evaluated":
            os._exit(1)

    assert in_child(partial(run_spec, FAILING, tmp_path / "run", postgres_url, die)) == 1
    run_spec(FAILING, tmp_path / "run", postgres_url)
    (taken,) = events_of(tmp_path / "run", "taken over")
    assert socket.gethostname() in taken["owner"]
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)


def test_command_line_runs_and_lists_and_shows_no_password(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server asks for no password, so any will do."""

    def qsearch(*arguments: str | Path) -> str:
        done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        return f"{done.stdout}{done.stderr}{done.exception or ''}{capsys.readouterr()}"

    url = postgres_url.replace("qsearch@", "qsearch:hunter2@")
    study = write_study_yaml(tmp_path / "my.yaml", **SMALL, search__rounds=1)
    ran = qsearch("run", study, "--out", tmp_path / "run", "--storage", url)
    listed = qsearch("list", "--storage", url, "--json")
    gone = qsearch("list", "--storage", f"{url}&port=1")
    assert "report.html" in ran
    assert '"name": "fake", "rounds": null, "completed": 7,' in listed
    assert "cannot be used" in gone
    for output in (ran, listed, gone):
        assert "hunter2" not in output
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
