"""Ax's tables in an SQLite file that several studies share; of PostgreSQL see test_postgres.py."""

from __future__ import annotations

from pathlib import Path

from qsearch.experiment.schema import create_tables
from qsearch.experiment.url import open_engine
from qsearch.sharing.listing import list_database
from tests.engine.fake_study import make_tables_at_once


def test_two_processes_make_the_tables_at_once(tmp_path: Path) -> None:
    # SQLite waits for another process for 5 seconds unless it is told otherwise.
    url = f"sqlite:///{tmp_path / 'shared.db'}?timeout=500"
    assert make_tables_at_once(url) == [0, 0]
    assert list_database(url) == []


def test_tables_that_are_there_stay(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'shared.db'}")
    create_tables(engine)
    before = (tmp_path / "shared.db").read_bytes()
    create_tables(engine)
    assert (tmp_path / "shared.db").read_bytes() == before
