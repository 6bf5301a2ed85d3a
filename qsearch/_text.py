"""What an exception says, as one line of text that every file and database can hold."""

from __future__ import annotations

import sys
import unicodedata

_MAX_CHARACTERS = 2000


def reason_of(error: BaseException) -> str:
    """Return kind and message of an exception in one line.

    Args:
        error: The exception; its message may hold anything, and be of any length.
    """
    try:
        told = str(error)
    except Exception:
        told = "its message cannot be read"
    return in_one_line(f"{type(error).__name__}: {told}")


def in_one_line(text: str) -> str:
    """Return a text in one line, of at most 2,000 characters, that can be saved.

    Args:
        text: What to tell. PostgreSQL holds no NUL, and no file a lone surrogate.
    """
    line = " ".join(text.split()).replace("\0", "\\0")
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"


_OBEYED = ("Cc", "Cf", "Cs")
"""Unicode's categories of control and formatting characters, and of halves of characters."""


def without_controls(text: str) -> str:
    """Return text with escapes for what a terminal would obey and not show.

    Names come from files of others, and could clear the screen or write what was never said.
    """
    return "".join(
        character
        if unicodedata.category(character) not in _OBEYED
        else character.encode("unicode_escape").decode()
        for character in text
    )


def warn(message: str) -> None:
    """Print a message for the user to standard error, in one line."""
    print(f"qsearch: {without_controls(' '.join(message.split()))}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return the database's own words; SQLAlchemy adds the statement and a link."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
