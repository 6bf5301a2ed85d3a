"""What an exception says, as one line of text that every file and database can hold."""

from __future__ import annotations

_MOST_CHARACTERS = 2000


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
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
