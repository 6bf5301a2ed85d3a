"""The URL of a database: opened without Ax, shown without its password, its errors as text."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from safetensors import SafetensorError
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from qsearch._text import one_line
from qsearch.errors import InputError, QsearchError

_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # Milliseconds.
}
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^=&#]*pass[^=&#]*=)[^&#]*")


def without_password(url: str) -> str:
    """Return a database's URL as it may be shown: with *** for its password."""
    try:
        shown: str = make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        shown = re.sub(r":[^:/]*@", ":***@", url)  # What may be a password.
    return _PASSWORD_IN_QUERY.sub(r"\1***", shown)


def hide_password(words: str, url: str) -> str:
    """Return words with *** for the password of a database's URL, which they may repeat."""
    words = words.replace(url, without_password(url))
    for secret in _passwords(url):
        words = words.replace(secret, "***")
    return words


def _passwords(url: str) -> set[str]:
    """Return a URL's password as it is written there and as it is meant."""
    found = re.findall(r"://[^:/@]*:([^/]*)@", url)
    found += [match.group(0)[len(match.group(1)) :] for match in _PASSWORD_IN_QUERY.finditer(url)]
    return {form for text in found for form in (text, unquote(text)) if form}


@contextlib.contextmanager
def database_errors(url: str, label: str | None = None) -> Iterator[None]:
    """Turn the errors of a database into an InputError that names it, by default by its option."""
    label = label or f"--storage {without_password(url)!r}"
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{label} needs a driver that is not installed ({error.name});"
            " for PostgreSQL install qsearch[postgres]"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        words = hide_password(one_line(error), url)
        if any(sign in words for sign in DAMAGE_SIGNS):
            raise InputError(f"{label}: damaged: {words}; {RESTORE}") from error
        if url.startswith("postgres:"):
            words = "a PostgreSQL URL begins with postgresql://"
        raise InputError(f"{label}: cannot be used: {words}") from error


def open_engine(url: str, must_exist: bool = False) -> Engine:
    """Return an engine of a database that connects each time.

    Args:
        url: SQLAlchemy URL.
        must_exist: Whether to refuse an SQLite file that does not exist, instead of making it.

    Raises:
        InputError: If the URL, its driver or its file cannot be used.
    """
    with database_errors(url):
        parsed: URL = make_url(url)
        if must_exist and parsed.get_backend_name() == "sqlite" and parsed.database:
            file = Path(parsed.database)
            if not parsed.database.startswith((":memory:", "file:")) and not file.is_file():
                raise InputError(f"--storage {without_password(url)!r}: there is no file {file}")
        return create_engine(url, poolclass=NullPool, connect_args=connect_arguments(url))


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file, whose path may hold signs of a URL, such as ``?``."""
    return f"sqlite:///{path.resolve().as_uri()}?uri=true"


def connect_arguments(url: str) -> dict[str, int]:
    """Return a driver's options by which it notices a host that has gone, unless the URL has them.

    Raises:
        SQLAlchemyError: If it is not a URL.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    return {name: value for name, value in _POSTGRES.items() if name not in parsed.query}


_STORAGE_SIGNS = ("disk is full", "disk I/O error", "readonly database", "No space left")
DAMAGE_SIGNS = (
    "malformed",
    "not a database",
    "file is encrypted",
    "Could not decode to UTF-8",
    "no such column",
    "no such table",
)
"""SQLite's words; it finds some damages only where it uses what is damaged."""
RESTORE = (
    "restore it together with the study's directory, from a copy, or run the study again with"
    " another --out"
)


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk, or of a damaged database, into one message.

    Raises:
        InputError: If the database is damaged.
        QsearchError: If the disk or the database fails; the same command resumes.
    """
    try:
        yield
    except (OSError, SQLAlchemyError, SafetensorError) as error:
        if any(sign in str(error) for sign in DAMAGE_SIGNS):
            raise InputError(
                f"{directory}: its database is damaged: {one_line(error)}; {RESTORE}"
            ) from error
        if not is_storage_error(error):
            if not isinstance(error, DBAPIError):
                raise
            raise QsearchError(
                f"{directory}: its database failed: {one_line(error)}; what was saved is kept, the"
                " same command resumes"
            ) from error
        raise QsearchError(
            f"{directory}: cannot be written: {one_line(error)}; what was saved is kept: make"
            " room, then run the same command to resume"
        ) from error


def is_storage_error(error: Exception) -> bool:
    """Return whether an error means a full or read-only disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return any(sign in str(error) for sign in _STORAGE_SIGNS)
