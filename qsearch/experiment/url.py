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

from qsearch._distribution import install_extra
from qsearch._text import in_one_line
from qsearch.errors import InputError, QsearchError

_POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # Milliseconds.
}
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^=&#]*pass[^=&#]*=)([^&#]*)")


def driver_words(error: BaseException) -> str:
    """Return what a database's driver said; SQLAlchemy adds the statement and a link."""
    return in_one_line(getattr(error, "orig", None) or error)


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
    secrets = re.findall(r"://[^:/@]*:([^/]*)@", url)
    secrets += [secret for _, secret in _PASSWORD_IN_QUERY.findall(url)]
    # As it is written in the URL, and as it is meant.
    for secret in filter(None, [*secrets, *map(unquote, secrets)]):
        words = words.replace(secret, "***")
    return words


@contextlib.contextmanager
def database_errors(url: str, label: str | None = None) -> Iterator[None]:
    """Turn the errors of a database into an InputError that names it, by default by its option."""
    label = label or f"--storage {without_password(url)!r}"
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{label} needs a driver that is not installed ({error.name});"
            f" for PostgreSQL {install_extra('postgres')}"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        words = hide_password(driver_words(error), url)
        if any(sign in words for sign in _DAMAGE_SIGNS):
            raise InputError(f"{label}: damaged: {words}; {RESTORE}") from error
        if url.startswith("postgres:"):
            words = "a PostgreSQL URL begins with postgresql://"
        raise InputError(f"{label}: cannot be used: {words}") from error


def open_engine(url: str, must_exist: bool = False) -> Engine:
    """Return an engine of a database that connects each time.

    Where it must exist, an SQLite file that does not is refused, instead of made.
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

    What is not a URL is a SQLAlchemyError.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    return {name: value for name, value in _POSTGRES.items() if name not in parsed.query}


_STORAGE_SIGNS = ("disk is full", "disk I/O error", "readonly database", "No space left")
_DAMAGE_SIGNS = (
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
RESUME = "what was saved is kept, the same command resumes"


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk, or of a database, into one message.

    Damage is an InputError; after any other QsearchError, the same command resumes.
    """
    try:
        yield
    except (OSError, SQLAlchemyError, SafetensorError) as error:
        words = driver_words(error)
        if any(sign in str(error) for sign in _DAMAGE_SIGNS):
            reason = f"its database is damaged: {words}; {RESTORE}"
            raise InputError(f"{directory}: {reason}") from error
        if is_storage_error(error):
            reason = f"cannot be written: {words}; make room: {RESUME}"
            raise QsearchError(f"{directory}: {reason}") from error
        if isinstance(error, DBAPIError):
            reason = f"its database failed: {words}; {RESUME}"
            raise QsearchError(f"{directory}: {reason}") from error
        raise


def is_storage_error(error: Exception) -> bool:
    """Return whether an error means a full or read-only disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return any(sign in str(error) for sign in _STORAGE_SIGNS)
