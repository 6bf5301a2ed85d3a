"""Commands that watch a study: ``status`` and ``serve``."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from qsearch._text import warn
from qsearch.cli.arguments import Json, StudyDirectory
from qsearch.cli.console import SafeConsole, label_table, print_line, report_function


def status(
    directory: StudyDirectory,
    json_: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until the study ends, or Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", help="Seconds between two refreshes.", min=0.2)
    ] = 2.0,
) -> None:
    """Print how far a study is: phase, time left, evaluations, failures, front, who runs it."""
    # Whoever has seen enough ends watching by Ctrl-C, which is not a failure.
    with contextlib.suppress(KeyboardInterrupt) if watch else contextlib.nullcontext():
        _show(directory, json_, every if watch else None)


def _show(directory: Path, as_json: bool, every: float | None) -> None:
    """Print the status, and with ``every`` (seconds) again until the study ends."""
    from qsearch.monitoring.status import study_status
    from qsearch.monitoring.status_text import status_lines

    console = SafeConsole()
    is_live = every is not None and not as_json and console.is_terminal
    with Live(console=console, auto_refresh=False) if is_live else contextlib.nullcontext() as live:
        while True:
            current = study_status(directory)
            if live:
                live.update(label_table(status_lines(current)), refresh=True)
            elif as_json:
                print_line(json.dumps(current.as_json()))
            else:
                console.print(label_table(status_lines(current)))
            if every is None or current.running is None:
                return
            time.sleep(every)


def serve(
    directory: StudyDirectory,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8765,
) -> None:
    """Show a study's report as a page that refreshes itself while the study runs."""
    report_function("serve")(directory, host, port, print_line, warn)
