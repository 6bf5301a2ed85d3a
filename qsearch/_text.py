"""Texts that every file, database and terminal can hold: what an exception says, and numbers."""

from __future__ import annotations

import math
import sys
import unicodedata


def reason_of(error: BaseException) -> str:
    """Return kind and message of an exception in one line."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read"
    return in_one_line(f"{type(error).__name__}: {message}")


def in_one_line(text: object, limit: int = 2000) -> str:
    """Return a text in one line, of at most ``limit`` characters, that can be saved."""
    # PostgreSQL holds no NUL, and no file a lone surrogate.
    line = " ".join(str(text).split()).replace("\0", "\\0")
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= limit else line[: limit - 1] + "…"


SMALL = 0.01
"""Values below have four digits: four decimals would say little of them."""


def with_error(value: float, error: float | None = None) -> str:
    """Return a loss or metric as text, with its error if that is known and not 0.

    It has four decimals, or four digits if it is small.
    """
    is_small = 0 < abs(value) < SMALL
    shown = f"{value:.4g}" if is_small else f"{value:.4f}"
    if not error or math.isnan(error):
        return shown
    return f"{shown} ± {error:.2g}" if is_small else f"{shown} ± {error:.4f}"


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
