"""Loggers: plugins that write a running study's values for other tools, such as TensorBoard.

A logger is of a run, not of the study: it stands in no YAML, and changes nothing that the study
finds. Its exceptions never stop the study.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from qsearch._text import reason_of
from qsearch.monitoring.events import Event, Observer, guarded
from qsearch.plugins.registry import load_plugin

Logger = Callable[[Path, str], AbstractContextManager[Observer]]
"""Called as ``logger(directory, name)`` with a study's directory and name.

The call imports what the logger needs, and raises InputError where that is not installed. Entering
what it returns opens its files or connections, and leaving closes them.
"""

_CREDENTIALS = re.compile(r"//[^/\s]*@")
"""User and password of a server: errors quote the address that could not be reached."""


@contextlib.contextmanager
def loggers(
    names: Sequence[str], directory: Path, study: str, warn: Callable[[str], None]
) -> Iterator[list[Observer]]:
    """Yield an observer for each logger, and close the loggers at the end.

    A logger is opened at the first event, when the study's directory is known to be this run's. At
    its first exception, ``warn`` is called, and the logger is dropped until the study is resumed.
    """
    with ExitStack() as stack:
        observers: list[Observer] = []
        for name in dict.fromkeys(names):
            logger: Logger = load_plugin("loggers", name)
            observers.append(stack.enter_context(_open(name, logger(directory, study), warn)))
        yield observers


@contextlib.contextmanager
def _open(
    name: str, context: AbstractContextManager[Observer], warn: Callable[[str], None]
) -> Iterator[Observer]:
    logger = ExitStack()
    observe: Observer | None = None

    def enter_and_observe(event: Event) -> None:
        nonlocal observe
        observe = observe or logger.enter_context(context)
        observe(event)

    def failed(error: Exception) -> None:
        reason = masked_reason(error)
        warn(f"logger {name!r} failed and is dropped, the study continues: {reason}")
        with contextlib.suppress(Exception):  # One message is enough.
            logger.close()

    try:
        yield guarded(enter_and_observe, failed)
    finally:
        try:
            logger.close()
        except Exception as error:
            failed(error)


def masked_reason(error: Exception) -> str:
    """Return kind and message of an exception, without the credentials in addresses."""
    return _CREDENTIALS.sub("//***@", reason_of(error))
