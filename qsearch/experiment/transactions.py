"""Several of Ax's commits as one.

Ax saves one step in several commits: attaching data deletes a trial's old data in one and inserts
it, with the new, in a later one. A process killed in between would lose the trial's earlier
rounds. Within :func:`one_transaction` all of it is saved, or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ax.storage.sqa_store import db
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

_saved = 0


def transactions_saved() -> int:
    """Return how many of this process's transactions were saved, to tell progress by."""
    return _saved


@contextlib.contextmanager
def one_transaction() -> Iterator[None]:
    """Make all that Ax saves inside one transaction of the database.

    After an exception nothing of it is in the database, while Ax's objects in memory may have
    changed; they must not be used further.

    Raises:
        SQLAlchemyError: The database's first error.
    """
    global _saved
    engine, sessions = db.get_engine(), db.SESSION_FACTORY
    errors: list[Exception] = []

    def note(context: ExceptionContext) -> None:
        errors.append(context.sqlalchemy_exception or context.original_exception)

    event.listen(engine, "handle_error", note)
    try:
        with engine.connect() as connection, connection.begin():
            # A session on a connection that has begun joins it; its own commits end nothing.
            sessions.remove()
            sessions.configure(bind=connection)
            try:
                yield
            finally:
                sessions.remove()
                sessions.configure(bind=engine)
        _saved += 1
    except SQLAlchemyError as error:
        # Ax saves again after an error; the transaction refuses, which would hide the reason.
        if errors and errors[0] is not error:
            raise errors[0] from error
        raise
    finally:
        event.remove(engine, "handle_error", note)
