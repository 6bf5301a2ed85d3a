"""What a user reads of a database that fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError, OperationalError

from qsearch.errors import InputError, QsearchError
from qsearch.experiment.url import storage_errors


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            DatabaseError("SELECT", {}, Exception("database disk image is malformed")),
            InputError,
            "its database is damaged",
        ),
        (
            OperationalError("INSERT", {}, Exception("database or disk is full")),
            QsearchError,
            "cannot be written: .* make room",
        ),
        (OSError(errno.ENOSPC, "No space left"), QsearchError, "cannot be written: .* make room"),
        (
            OperationalError("SELECT", {}, Exception("server has gone")),
            QsearchError,
            "its database failed: .*the same command resumes",
        ),
    ],
    ids=["damaged", "full", "full disk", "any other failure"],
)
def test_a_failing_database_is_one_message_with_the_remedy(
    error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(QsearchError, match=message) as caught, storage_errors(Path("run")):
        raise error
    assert type(caught.value) is kind
