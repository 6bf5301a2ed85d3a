"""The command ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsearch._text import warn
from qsearch.cli.arguments import Assignments, FromRecipe, StorageUrl, StudyFile
from qsearch.cli.console import SafeConsole, fail, print_line, quieten_ax, report_function
from qsearch.cli.lasting_output import lasting_output
from qsearch.errors import InputError, QsearchError

if TYPE_CHECKING:
    from qsearch.execution.workers import Workers
    from qsearch.storage.study_record import StudyRecord


@lasting_output()
def run(
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="The study's directory.", metavar="DIR")],
    storage: StorageUrl = None,
    storage_wait: Annotated[
        float, typer.Option(help="Minutes to wait for a database that cannot be reached.", min=0.0)
    ] = 15.0,
    workers: Annotated[
        int,
        typer.Option(help="Number of evaluating processes; more than one needs Ray.", min=1),
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
    from_recipe: FromRecipe = None,
    set_: Assignments = None,
) -> None:
    """Run a study, or resume it where it stopped."""
    from qsearch.cli.progress_bars import StudyProgress
    from qsearch.monitoring.events import all_of
    from qsearch.monitoring.loggers import loggers
    from qsearch.monitoring.tracker import StudyTracker
    from qsearch.spec.study_spec import with_recipes
    from qsearch.storage.directory import load_study_file

    spec = with_recipes(load_study_file(study, set_ or ()), from_recipe or ())
    console = SafeConsole()
    try:
        with (
            loggers(logger or (), out, spec.name, warn) as others,
            StudyProgress(console, StudyTracker(out, spec.search)) as progress,
        ):
            quieten_ax()
            from qsearch.study.run import run_spec

            record = run_spec(
                spec,
                out,
                storage,
                all_of([progress, *others]),
                str(study),
                _workers(workers, address, worker_threads, worker_gpus),
                60 * storage_wait,
            )
    except KeyboardInterrupt:
        raise typer.Exit(fail("interrupted; the same command resumes", 130)) from None
    _report(console, record, out)


def _workers(count: int, address: str | None, threads: int | None, gpus: float) -> Workers | None:
    from qsearch.execution.workers import Workers

    if count > 1 or address is not None:
        return Workers(count, address, threads, gpus)
    if threads is not None or gpus:
        raise InputError("--worker-threads, --worker-gpus need --workers or --address")
    return None


def _report(console: SafeConsole, record: StudyRecord, out: Path) -> None:
    """Print the results of a finished study, and write its report."""
    from qsearch.claims.sentences import claim_sentences
    from qsearch.claims.study_claims import study_claims
    from qsearch.monitoring.events import last_event
    from qsearch.monitoring.status import finish_reason
    from qsearch.storage.measurements import read_footprint
    from qsearch.storage.paths import LOG

    console.print(report_function("summary")(record))
    for sentence in claim_sentences(study_claims(out, record), read_footprint(out)):
        print_line(sentence)
    print_line(f"finished: {finish_reason(last_event(out / LOG))}")
    try:
        path = report_function("page")([out], out / "report.html")
    except QsearchError as error:
        raise type(error)(
            f"{error}; the study is finished and saved; for its report, run: qsearch report {out}"
        ) from error
    print_line(f"report: {path}")
