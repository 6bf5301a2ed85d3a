"""Commands that watch a study: ``status`` and ``serve``."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qsearch._text import warn, without_controls
from qsearch.cli.output import print_line, report_function

if TYPE_CHECKING:
    from qsearch.monitoring.status import StudyStatus

StudyDirectory = Annotated[Path, typer.Argument(help="A study's directory.", metavar="DIR")]


def status(
    directory: StudyDirectory,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until the study ends, or Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", help="Seconds between two refreshes.", min=0.2)
    ] = 2.0,
) -> None:
    """Say how far a study is: phase, time left, evaluations, failures, front, what is running."""
    from qsearch.monitoring.status import study_status

    if not watch:
        _print(study_status(directory), json_)
        return
    # Whoever has seen enough ends watching by Ctrl-C; that is no failure.
    with contextlib.suppress(KeyboardInterrupt):
        _watch(directory, every, json_)


def _watch(directory: Path, every: float, as_json: bool) -> None:
    from qsearch.monitoring.status import study_status

    found = study_status(directory)
    if as_json or not Console().is_terminal:
        _print(found, as_json)
        while found.running is not None:
            time.sleep(every)
            found = study_status(directory)
            _print(found, as_json)
        return
    with Live(_table(found.lines()), auto_refresh=False) as live:
        while found.running is not None:
            time.sleep(every)
            found = study_status(directory)
            live.update(_table(found.lines()), refresh=True)


def _print(found: StudyStatus, as_json: bool) -> None:
    for note in found.notes:
        warn(note)
    if as_json:
        print_line(json.dumps(found.as_json()))
    else:
        lines = [(label, text) for label, text in found.lines() if label != "note"]
        Console().print(_table(lines), highlight=False, markup=False)


def _table(lines: list[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for label, text in lines:
        table.add_row(label, Text(without_controls(text)))
    return table


def serve(
    directory: StudyDirectory,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)
    ] = 8765,
) -> None:
    """Show a study's report as a page that refreshes itself while the study runs."""
    report_function("serve")(directory, host, port, print_line, warn)


def finish_reason(directory: Path) -> str:
    """Return why a study is finished, or "" if it is not."""
    from qsearch.monitoring import status as watching
    from qsearch.monitoring.events import last_event

    return watching.finish_reason(last_event(directory / "log.jsonl"))
