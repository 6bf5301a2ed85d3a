"""Commands that watch a study: ``status``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

StudyDirectory = Annotated[Path, typer.Argument(help="A study's directory.", metavar="DIR")]


def status(directory: StudyDirectory) -> None:
    """Say how far a study is: rounds, evaluations, front, hypervolume, end, what is running."""
    from qsearch.events import last_event
    from qsearch.lock import describe_owner, lock_owner
    from qsearch.records import STUDY_FILE

    owner = lock_owner(directory)
    event = last_event(directory / "log.jsonl")
    table = Table(show_header=False, box=None, pad_edge=False)
    # A study has no results yet while it loads its model and measures quantization errors.
    if (directory / STUDY_FILE).is_file() or (owner is None and event is None):
        _add_results(table, directory)
    else:
        table.add_row("results", "none yet")
    table.add_row("finished", finish_reason(directory) or "no")
    table.add_row("last event", _in_words(event, owner is not None) if event else "none")
    table.add_row("running", "no" if owner is None else describe_owner(owner))
    Console().print(table, highlight=False, markup=False)


def _add_results(table: Table, directory: Path) -> None:
    from qsearch.records import read_study

    record = read_study(directory)
    latest = record.latest
    failed = int((record.trials["status"] == "failed").sum())
    table.add_row("study", record.name)
    table.add_row("rounds finished", str(len(record.rounds)))
    table.add_row("evaluations", f"{len(record.trials) - failed} completed, {failed} failed")
    table.add_row("configurations", str(record.trials["trial"].nunique()))
    table.add_row("on the front", str(int(latest["on_front"].sum())))
    history = ", ".join(f"{entry.hypervolume:.4f}" for entry in record.rounds) or "none yet"
    table.add_row("hypervolume by round", history)
    if record.reference_point:
        loss, bits = record.reference_point
        table.add_row("reference point", f"loss {loss:.4f}, average bits {bits:.4f}")


def _in_words(event: dict[str, Any], is_running: bool) -> str:
    """Return an event of the log and its time; what ends in -ing is a phase that began then."""
    kind = str(event.get("event", "?"))
    goes_on = is_running and kind.partition(" ")[0].endswith("ing")
    return f"{kind}{', since' if goes_on else ' at'} {event.get('time', '?')}"


def finish_reason(directory: Path) -> str:
    """Return why a study is finished, or "" if it is not."""
    from qsearch.events import last_event

    event = last_event(directory / "log.jsonl") or {}
    if event.get("event") != "finished":
        return ""
    return str(event.get("reason", "yes"))
