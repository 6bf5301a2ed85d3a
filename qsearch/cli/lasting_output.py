"""Output that may get lost: it stops no study."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from qsearch._text import warn


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let what is printed inside get lost, instead of failing, once it cannot be written.

    A closed terminal, a closed pipe or a full disk must not stop a study, whoever prints.
    """
    output, errors = (
        # None where the shell closed it.
        stream and cast(TextIO, _Lasting(stream, name))
        for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error"))
    )
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield


class _Lasting:
    """A text stream that writes to nowhere from when it first cannot be written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it.
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        # What the stream still holds would fail again at exit; others write to the same file.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), self._stream.fileno())
        self._stream = nowhere
        reason = getattr(error, "strerror", None) or error
        warn(f"{self._name} cannot be written, the study continues without it: {reason}")
