"""``qsearch measure-speed``: how fast this machine runs a study's configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsearch.cli.arguments import StudyDirectory
from qsearch.cli.console import SafeConsole, print_line, print_table
from qsearch.cli.rare_collection import rare_collection

if TYPE_CHECKING:
    from qsearch.plugins.speed import SpeedTable


@rare_collection()
def measure_speed(
    directory: StudyDirectory,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", help="That the engine computes with; those of PyTorch if omitted.", min=1
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A study measured on this machine: the layers that both have are not measured.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Measure how fast this machine runs a study's configurations, for --tokens-per-second."""
    from qsearch.deployment.measuring_speed import measure_study_speed

    with SafeConsole(stderr=True).status("") as status:
        table, record = measure_study_speed(
            directory, threads, source, lambda what: status.update(f"measuring speed: {what}")
        )
    _print(table)
    errors = table.errors(record.layers)
    print_line(
        f"{len(table.checks)} whole files: predictions are within {errors[0]:.1%} of the tokens"
        f" generated a second, and within {errors[1]:.1%} of those of a prompt"
    )


def _print(table: SpeedTable) -> None:
    conditions = table.conditions
    print_line(
        f"{conditions.engine} ({conditions.version}) on {conditions.machine}, threads:"
        f" {conditions.threads}"
    )
    speeds = {(row.type, row.shape): row for row in table.products}
    print_table(
        ("type", "shape", "ns a weight", "of a prompt's token"),
        [
            (
                kind,
                f"{shape[0]} × {shape[1]}",
                f"{row.generation:.4f}",
                "" if row.prompt != row.prompt else f"{row.prompt:.4f}",
            )
            for (kind, shape), row in speeds.items()
        ],
    )
    print_line(
        f"all else: {1e3 * table.other_generation:.3f} ms a token,"
        f" {1e3 * table.other_prompt:.3f} ms of a prompt's token"
    )
