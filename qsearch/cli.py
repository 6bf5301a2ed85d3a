"""The command line. Heavy imports happen in the commands that need them, so all start fast."""

from __future__ import annotations

import json
import logging
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsearch.errors import InputError, QsearchError

app = typer.Typer(
    help="Search quantization configurations; train one adapter for all of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(help="A study YAML.", metavar="STUDY.yaml")]
StudyDirectory = Annotated[Path, typer.Argument(help="A study's directory.", metavar="DIR")]
Bits = Annotated[float | None, typer.Option("--bits", help="Budget in average bits.", min=0.0)]
Bytes = Annotated[
    str | None, typer.Option("--bytes", help="Budget of the weight files, such as 60MB.")
]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Budget of the memory that running takes.")
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", help="For --memory: length of a sequence.", min=1)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value.", metavar="FIELD=VALUE"),
]


@app.command()
def init(
    template: Annotated[str, typer.Argument(help="Name of a ready study.")] = "quickstart",
    out: Annotated[
        Path | None, typer.Option(help="File to write; TEMPLATE.yaml if omitted.")
    ] = None,
) -> None:
    """Write a study YAML to start from."""
    from qsearch.templates import read_template

    text = read_template(template)
    target = out or Path(f"{template}.yaml")
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} exists; give another file by --out") from error
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    _print(f"wrote {target}; next: qsearch check {target}")


@app.command()
def check(study: StudyFile, set_: Assignments = None) -> None:
    """Validate a study; say its layers, space size, and estimated memory and time."""
    from qsearch.checking import check_study
    from qsearch.spec import load_spec

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in check_study(load_spec(study, set_ or ()), str(study)):
        table.add_row(name, value)
    Console().print(table, highlight=False, markup=False)


@app.command()
def run(
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="The study's directory.", metavar="DIR")],
    storage: Annotated[
        str | None, typer.Option(help="Database URL; a file in DIR if omitted.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that evaluate.", min=1)] = 1,
    set_: Assignments = None,
) -> None:
    """Run a study, or resume it where it stopped."""
    if workers > 1:
        raise InputError(f"--workers {workers}: this version evaluates in one process; use 1")
    from qsearch.progress import StudyProgress
    from qsearch.spec import load_spec

    spec = load_spec(study, set_ or ())
    console = Console()
    try:
        with StudyProgress(console) as progress:
            _quieten_ax()
            from qsearch.study import run_study

            record = run_study(spec, out, storage, progress, str(study))
    except KeyboardInterrupt:
        raise typer.Exit(_fail("interrupted; the same command resumes", 130)) from None
    console.print(_report_function("summary")(record))
    _print(f"finished: {_finish_reason(out)}")
    path = _report_function("page")([out], out / "report.html")
    _print(f"report: {path}")


@app.command()
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
    table.add_row("finished", _finish_reason(directory) or "no")
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


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(help="Study directories.", metavar="DIR...")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; DIR/report.html if omitted.")
    ] = None,
) -> None:
    """Write the interactive report of one study, or of several side by side."""
    target = out or directories[0] / "report.html"
    try:
        path = _report_function("page")(directories, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    _print(f"report: {path}")


@app.command()
def pick(
    directory: StudyDirectory,
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the best configuration within a budget: average bits, bytes of files, or memory."""
    from qsearch.budgets import chosen_budget
    from qsearch.picking import pick_configuration

    picked = pick_configuration(directory, chosen_budget(bits, bytes_, memory, tokens))
    if json_:
        layers = {name: dict(layer) for name, layer in picked.configuration.items()}
        _print(json.dumps({**picked.figures, "configuration": layers}))
        return
    lines = picked.lines()
    width = max(len(label) for label, _ in lines)
    for label, figure in lines:
        _print(f"{label:{width}}  {figure}")
    _print("")
    rows = (
        (name, *(str(layer[knob]) for knob in picked.knobs))
        for name, layer in picked.configuration.items()
    )
    _print_table(("layer", *picked.knobs), rows)


@app.command()
def export(
    directory: StudyDirectory,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.", metavar="OUT")],
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", help="Several budgets in average bits.", metavar="BITS,BITS,…"),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="packed (whole model), packed-base (without its adapter), adapter (PEFT),"
            " merged (float model), compressed-tensors (vLLM), gguf (llama.cpp).",
        ),
    ] = "adapter",
) -> None:
    """Write the best configuration within a budget in a form that can be deployed."""
    from qsearch.budgets import chosen_budget, parse_sweep

    _quieten_ax()
    from qsearch.exporting import export_configuration, export_sweep

    if sweep is None:
        budget = chosen_budget(bits, bytes_, memory, tokens)
        rows = {str(to): export_configuration(directory, budget, to, format_)}
    elif (bits, bytes_, memory, tokens) == (None, None, None, None):
        budgets = parse_sweep(sweep)
        exported = export_sweep(directory, budgets, to, format_)
        names = [f"{to} for {budget.limit:g} bits" for budget in budgets]
        rows = dict(zip(names, exported, strict=True))
    else:
        raise InputError("--sweep holds the budgets; leave --bits, --bytes, --memory, --tokens out")
    for name, row in rows.items():
        _print(
            f"wrote {name}: trial {int(row['trial'])}, {row['average_bits']:.4f} average bits,"
            f" loss {row['loss']:.4f}"
        )


@app.command()
def plugins() -> None:
    """List installed quantizers, trainers and tasks, and the packages they come from."""
    from qsearch.plugins import Group, installed_plugins

    groups: tuple[Group, ...] = ("quantizers", "trainers", "tasks")
    rows = (
        (group[:-1], plugin.name, plugin.target, plugin.distribution)
        for group in groups
        for plugin in installed_plugins(group)
    )
    _print_table(("kind", "name", "class", "from"), rows)


def _finish_reason(directory: Path) -> str:
    """Return why a study is finished, or "" if it is not."""
    from qsearch.events import last_event

    event = last_event(directory / "log.jsonl") or {}
    if event.get("event") != "finished":
        return ""
    return str(event.get("reason", "yes"))


def _quieten_ax() -> None:
    """Keep Ax from reporting on standard error, which it starts to do while it is imported."""
    logging.disable(logging.INFO)
    from ax.utils.common.logger import set_stderr_log_level

    logging.disable(logging.NOTSET)
    set_stderr_log_level(logging.ERROR)


def _report_function(name: str) -> Any:
    from qsearch.plugins import load_plugin

    return load_plugin("reports", name)


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of which no cell is cut: names that are cut may all look alike.

    On a terminal that is too narrow, headings break at underscores, then cells anywhere. What is
    no terminal gets each row on a line.
    """
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
    if not console.is_terminal:
        console.width = width
    elif console.width < width:
        for column in table.columns:
            column.header = Text(str(column.header).replace("_", "_\n"))
    console.print(table, highlight=False, markup=False)


def _print(text: str) -> None:
    typer.echo(text)


def main() -> None:
    """Run the command line: 0 done, 2 bad input, 1 failure, 130 interrupted."""
    if not sys.warnoptions:
        # Deprecations inside Ax, SQLAlchemy or transformers are not the user's to act on.
        warnings.simplefilter("ignore")
    # Shells start background jobs with interrupts ignored; a study must still stop cleanly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except QsearchError as error:
        sys.exit(_fail(str(error), 1))
    except OSError as error:
        sys.exit(_fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1))


def _fail(message: str, code: int) -> int:
    print(f"qsearch: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
