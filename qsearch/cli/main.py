"""The command line. Heavy imports happen in the commands that need them, so all start fast."""

from __future__ import annotations

import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qsearch._text import warn, without_controls
from qsearch.cli import monitoring as cli_watching
from qsearch.cli import report as cli_report
from qsearch.cli import sharing as cli_sharing
from qsearch.cli.monitoring import StudyDirectory, finish_reason
from qsearch.cli.output import (
    fail,
    lasting_output,
    print_line,
    print_table,
    quieten_ax,
    report_function,
    write_any_character,
)
from qsearch.errors import InputError, QsearchError

app = typer.Typer(
    help="Search quantization configurations; train one adapter for all of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(help="A study YAML.", metavar="STUDY.yaml")]
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
Trial = Annotated[
    int | None, typer.Option("--trial", help="A trial of the latest round, by its number.", min=0)
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
    from qsearch.spec.templates import read_template

    text = read_template(template)
    target = out or Path(f"{template}.yaml")
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} exists; give another file by --out") from error
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    print_line(f"wrote {target}; next: qsearch check {target}")


@app.command()
def check(study: StudyFile, set_: Assignments = None) -> None:
    """Validate a study; say its layers, space size, and estimated memory and time."""
    from qsearch.storage.directory import load_study
    from qsearch.study.checking import check_study

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in check_study(load_study(study, set_ or ()), str(study)):
        table.add_row(name, without_controls(value))
    Console().print(table, highlight=False, markup=False)


@app.command()
@lasting_output()
def run(
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="The study's directory.", metavar="DIR")],
    storage: Annotated[
        str | None, typer.Option(help="Database URL; a file in DIR if omitted.")
    ] = None,
    storage_wait: Annotated[
        float, typer.Option(help="Minutes to wait for a database that goes away.", min=0.0)
    ] = 15.0,
    workers: Annotated[
        int, typer.Option(help="Processes that evaluate, by Ray where more than one.", min=1)
    ] = 1,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster that the workers run on, such as auto.")
    ] = None,
    worker_threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each worker; this machine's shared out if omitted."),
    ] = None,
    worker_gpus: Annotated[
        float, typer.Option(help="GPUs of each worker, or a part of one.", min=0.0)
    ] = 0.0,
    logger: Annotated[
        list[str] | None,
        typer.Option(help="Log to tensorboard, mlflow or another plugin.", metavar="NAME"),
    ] = None,
    set_: Assignments = None,
) -> None:
    """Run a study, or resume it where it stopped."""
    from qsearch.cli.progress import StudyProgress
    from qsearch.monitoring.events import all_of
    from qsearch.monitoring.loggers import loggers
    from qsearch.storage.directory import load_study
    from qsearch.storage.paths import LOG

    spec = load_study(study, set_ or ())
    console = Console()
    try:
        with (
            loggers(logger or (), out, spec.name, warn) as others,
            StudyProgress(console, spec.search, out / LOG) as progress,
        ):
            quieten_ax()
            from qsearch.execution.workers import Workers
            from qsearch.study.run import run_study

            many = workers > 1 or address is not None
            if not many and (worker_threads is not None or worker_gpus):
                raise InputError("--worker-threads, --worker-gpus need --workers or --address")
            record = run_study(
                spec,
                out,
                storage,
                all_of([progress, *others]),
                str(study),
                Workers(workers, address, worker_threads, worker_gpus) if many else None,
                60 * storage_wait,
            )
    except KeyboardInterrupt:
        raise typer.Exit(fail("interrupted; the same command resumes", 130)) from None
    console.print(report_function("summary")(record))
    print_line(f"finished: {finish_reason(out)}")
    try:
        path = report_function("page")([out], out / "report.html")
    except InputError as error:
        raise InputError(
            f"{error}; the study is finished and saved; for its report, run: qsearch report {out}"
        ) from error
    print_line(f"report: {path}")


app.command()(cli_watching.status)
app.command()(cli_watching.serve)
app.command("list")(cli_sharing.list_studies)
app.command()(cli_sharing.index)
app.command()(cli_sharing.archive)
app.command()(cli_sharing.restore)
app.command()(cli_report.report)


@app.command()
def pick(
    directory: StudyDirectory,
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    trial: Trial = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the best configuration within a budget of average bits, bytes or memory, or a trial."""
    from qsearch.deployment.budgets import chosen_budget
    from qsearch.deployment.picking import pick_configuration

    picked = pick_configuration(directory, chosen_budget(bits, bytes_, memory, tokens, trial))
    if json_:
        layers = {name: dict(layer) for name, layer in picked.configuration.items()}
        print_line(json.dumps({**picked.figures, "configuration": layers}))
        return
    lines = picked.lines()
    width = max(len(label) for label, _ in lines)
    for label, figure in lines:
        print_line(f"{label:{width}}  {figure}")
    print_line("")
    rows = (
        (name, *(str(layer[knob]) for knob in picked.knobs))
        for name, layer in picked.configuration.items()
    )
    print_table(("layer", *picked.knobs), rows)


@app.command()
def export(
    directory: StudyDirectory,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.", metavar="OUT")],
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    trial: Trial = None,
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
    """Write the best configuration within a budget, or a trial, in a form that can be deployed."""
    from qsearch.deployment.budgets import chosen_budget, parse_sweep

    quieten_ax()
    from qsearch.deployment.exporting import export_configuration, export_sweep

    if sweep is None:
        budget = chosen_budget(bits, bytes_, memory, tokens, trial)
        rows = {str(to): export_configuration(directory, budget, to, format_)}
    elif all(option is None for option in (bits, bytes_, memory, tokens, trial)):
        budgets = parse_sweep(sweep)
        exported = export_sweep(directory, budgets, to, format_)
        names = [f"{to} for {budget.limit:g} bits" for budget in budgets]
        rows = dict(zip(names, exported, strict=True))
    else:
        raise InputError(
            "--sweep holds the budgets; leave --bits, --bytes, --memory, --tokens, --trial out"
        )
    for name, row in rows.items():
        print_line(
            f"wrote {name}: trial {int(row['trial'])}, {row['average_bits']:.4f} average bits,"
            f" loss {row['loss']:.4f}"
        )


@app.command()
def plugins() -> None:
    """List installed quantizers, trainers, tasks and loggers, and the packages they come from."""
    from qsearch.plugins.registry import Group, installed_plugins

    groups: tuple[Group, ...] = ("quantizers", "trainers", "tasks", "loggers")
    rows = (
        (group[:-1], plugin.name, plugin.target, plugin.distribution)
        for group in groups
        for plugin in installed_plugins(group)
    )
    print_table(("kind", "name", "class", "from"), rows)


def main() -> None:
    """Run the command line: 0 done, 2 bad input, 1 failure, 130 interrupted."""
    if not sys.warnoptions:
        # Deprecations inside Ax, SQLAlchemy or transformers are not the user's to act on.
        warnings.simplefilter("ignore")
    # Shells start background jobs with interrupts ignored; a study must still stop cleanly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    write_any_character()
    try:
        app()
    except InputError as error:
        sys.exit(fail(str(error), 2))
    except QsearchError as error:
        sys.exit(fail(str(error), 1))
    except OSError as error:
        sys.exit(fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1))


if __name__ == "__main__":
    main()
