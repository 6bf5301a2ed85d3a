"""Ax's tables in an SQLite file that several studies share; of PostgreSQL see test_postgres.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch.experiment.schema import create_tables
from qsearch.experiment.url import open_engine
from qsearch.sharing.listing import list_database
from tests.engine.support import make_tables_at_once


@pytest.mark.parametrize("time", range(2))  # They do not collide each time.
def test_several_processes_make_the_tables_at_once(time: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    assert make_tables_at_once(url) == [0, 0, 0, 0]
    assert list_database(url) == []


def test_tables_that_are_there_stay(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'shared.db'}")
    create_tables(engine)
    before = (tmp_path / "shared.db").read_bytes()
    create_tables(engine)
    assert (tmp_path / "shared.db").read_bytes() == before
