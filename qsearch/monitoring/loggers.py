"""Loggers: plugins that write a running study's figures for other tools, such as TensorBoard.

A logger is of a run, not of the study: it stands in no YAML, and changes nothing that the study
finds. What it raises ends no study.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from qsearch._text import reason_of
from qsearch.monitoring.events import Event, Observer
from qsearch.plugins.registry import load_plugin

Logger = Callable[[Path, str], AbstractContextManager[Observer]]
"""Called as ``logger(directory, name)`` with a study's directory and name.

The call imports what the logger needs, and raises InputError where that is not installed. Entering
what it returns opens its files or connections, and leaving closes them.
"""

_CREDENTIALS = re.compile(r"//[^/\s]*@")
"""User and password of a server: errors quote the address that could not be reached."""

_MAX_FAILURES = 3
"""Failures in succession after which a logger is left alone: each may cost a time-out."""


@contextlib.contextmanager
def loggers(
    names: Sequence[str], directory: Path, study: str, warn: Callable[[str], None]
) -> Iterator[list[Observer]]:
    """Give an observer for each logger, and close the loggers at the end.

    A logger is opened at the first event, when the study's directory is known to be this run's.

    Args:
        names: Names of the plugins.
        directory: The study's directory.
        study: The study's name.
        warn: Told, once for each logger, that it failed; and that it is off, if it goes on failing.

    Raises:
        InputError: If there is no such logger, or what it needs is not installed.
    """
    with ExitStack() as stack:
        observers: list[Observer] = []
        for name in dict.fromkeys(names):
            logger: Logger = load_plugin("loggers", name)
            guarded = _Guarded(name, logger(directory, study), warn)
            stack.callback(guarded.close)
            observers.append(guarded)
        yield observers


class _Guarded:
    """An observer that survives its logger's failures."""

    def __init__(
        self,
        name: str,
        logger: AbstractContextManager[Observer],
        warn: Callable[[str], None],
    ) -> None:
        self._name = name
        self._logger = logger
        self._warn = warn
        self._observe: Observer | None = None
        self._failures = 0
        self._warned = self._off = False

    def __call__(self, event: Event) -> None:
        if self._off:
            return
        try:
            if self._observe is None:
                self._observe = self._logger.__enter__()
            self._observe(event)
        except Exception as error:
            self._failed(error)
        else:
            self._failures = 0

    def close(self) -> None:
        """Close the logger, if it was opened."""
        if self._observe is None:
            return
        try:
            self._logger.__exit__(None, None, None)
        except Exception as error:
            self._warn_once(error)

    def _failed(self, error: Exception) -> None:
        self._warn_once(error)
        self._failures += 1
        # A context that failed to open cannot be entered again.
        if self._observe is None or self._failures >= _MAX_FAILURES:
            self._off = True
            self._warn(f"logger {self._name!r} is off until the study is resumed")

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            reason = _CREDENTIALS.sub("//***@", reason_of(error))
            self._warn(f"logger {self._name!r} failed, the study goes on: {reason}")
        self._warned = True
