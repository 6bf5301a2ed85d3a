"""Ax's tables in a database: made there, and so that PostgreSQL takes them."""

from __future__ import annotations

from ax.storage.sqa_store import sqa_classes
from sqlalchemy import MetaData, String, Text, text
from sqlalchemy.engine import Engine
from sqlalchemy.types import TypeDecorator

_CREATING = 0x71736561726368
"""Key of the lock that PostgreSQL gives to one process at a time while it makes tables."""


def create_tables(engine: Engine) -> None:
    """Make those of Ax's tables that a database lacks; several processes may do so at once."""
    tables = sqa_classes.Base.metadata
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATING})
            tables = _tables_for_postgresql()
        elif engine.dialect.name == "sqlite":
            # Before it is looked which are missing; SQLite would lock at the first that is made.
            connection.execute(text("BEGIN IMMEDIATE"))
        tables.create_all(connection)


def _tables_for_postgresql() -> MetaData:
    """Return Ax's tables with each text of any length.

    Ax declares lengths that PostgreSQL has no type for, and others that it holds to while SQLite
    does not: a node of a real model is longer.
    """
    tables = MetaData()
    for original in sqa_classes.Base.metadata.sorted_tables:
        for column in original.to_metadata(tables).columns:
            kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
            if isinstance(kind, String):
                column.type = Text()
    return tables
