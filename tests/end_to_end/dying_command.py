"""Run qsearch in a process that kills itself at an event, or just before it has written a file.

    python dying_command.py WHAT COUNT ARGUMENTS...

WHAT is a kind of event, or the name of a file that is moved into place; it has come COUNT times.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from qsearch.cli.main import main
from qsearch.monitoring.events import Event, Observer, all_of
from qsearch.study import run as study_run

WHAT, COUNT = sys.argv[1], int(sys.argv[2])
seen = 0


def happen(what: str) -> None:
    """Die, if this is what it is to die of."""
    global seen
    seen += what == WHAT
    if seen == COUNT:
        os.kill(os.getpid(), signal.SIGKILL)


def see_files(event: str, arguments: tuple[Any, ...]) -> None:
    """Take in that a file is to be moved."""
    if event == "os.rename":
        happen(Path(arguments[1]).name)


def observed(spec: Any, out: Path, storage: str | None, observer: Observer, *others: Any) -> Any:
    """Run a study whose events are taken in, too, when others have done so."""

    def see_events(event: Event) -> None:
        happen(event.kind)

    return run_spec(spec, out, storage, all_of([observer, see_events]), *others)


run_spec = study_run.run_spec
study_run.run_spec = observed  # type: ignore[assignment]
sys.addaudithook(see_files)
sys.argv = ["qsearch", *sys.argv[3:]]
main()
