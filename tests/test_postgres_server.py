"""The server that tests with the mark ``postgres`` use."""

from __future__ import annotations

import pytest

from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.postgres


def test_databases_are_empty_and_apart(postgres_server: PostgresServer) -> None:
    first, second = (postgres_server.new_database(name) for name in ("apart_a", "apart_b"))
    assert first != second
    postgres_server.execute("CREATE TABLE t (x int)", "apart_a")
    assert postgres_server.execute("SELECT count(*) FROM t", "apart_a").strip() == "0"
    with pytest.raises(RuntimeError, match='relation "t" does not exist'):
        postgres_server.execute("SELECT * FROM t", "apart_b")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_committed_outlives_the_servers_end(
    end: str, postgres_server: PostgresServer
) -> None:
    name = f"outlives_{end}"
    postgres_server.new_database(name)
    postgres_server.execute("CREATE TABLE t AS SELECT 7 AS x", name)
    getattr(postgres_server, end)()
    assert not postgres_server.is_running()
    with pytest.raises(RuntimeError, match="connection to server"):
        postgres_server.execute("SELECT 1")
    postgres_server.start()
    assert postgres_server.execute("SELECT x FROM t", name).strip() == "7"
