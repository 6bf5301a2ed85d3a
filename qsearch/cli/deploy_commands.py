"""Commands from results to a model: ``pick`` and ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from qsearch._sizes import readable_size
from qsearch.cli.arguments import (
    Bits,
    Bytes,
    Json,
    Maxima,
    MaxKl,
    Memory,
    MinAccuracy,
    Minima,
    StudyDirectory,
    Sweep,
    Tokens,
    TokensPerSecond,
    Trial,
    Within,
)
from qsearch.cli.console import SafeConsole, print_line, print_table
from qsearch.cli.rare_collection import rare_collection
from qsearch.errors import InputError

if TYPE_CHECKING:
    from qsearch.deployment.exporting import PlannedExport


def pick(
    directory: StudyDirectory,
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    trial: Trial = None,
    max_kl: MaxKl = None,
    min_accuracy: MinAccuracy = None,
    maxima: Maxima = None,
    minima: Minima = None,
    within: Within = None,
    tokens_per_second: TokensPerSecond = None,
    json_: Json = False,
) -> None:
    """Print the best configuration within a budget of average bits, bytes or memory, or a trial.

    With limits of metrics, it is the best that keeps them; without a budget, the smallest. Within a
    share of the loss without quantization, it is the smallest.
    """
    from qsearch.deployment.criteria import chosen_criteria
    from qsearch.deployment.picking import pick_configuration, pick_within

    options = (bits, bytes_, memory, tokens, trial, max_kl, min_accuracy, maxima, minima, within)
    (criteria,) = chosen_criteria(*options, tokens_per_second=tokens_per_second)
    if criteria.within is None:
        picked = pick_configuration(
            directory, criteria.budget, criteria.limits, criteria.tokens_per_second
        )
    else:
        picked = pick_within(directory, criteria.within)
    if json_:
        layers = {name: dict(layer) for name, layer in picked.configuration.items()}
        print_line(json.dumps({**picked.values, "configuration": layers}))
        return
    lines = picked.lines()
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        print_line(f"{label:{width}}  {text}")
    print_line("")
    rows = (
        (name, *(str(layer[knob]) for knob in picked.knobs))
        for name, layer in picked.configuration.items()
    )
    print_table(("layer", *picked.knobs), rows)


class ExportCommand(TyperCommand):
    """The command ``export``, whose help lists the installed formats."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; packages are looked through for formats only here."""
        from qsearch.plugins.formats import installed_formats

        formats = "; ".join(f"{name}: {text}" for name, text in installed_formats())
        for option in self.params:
            if isinstance(option, TyperOption) and option.name == "format_":
                option.help = f"{formats}."
        super().format_help(ctx, formatter)


@rare_collection()
def export(
    directory: StudyDirectory,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write.", metavar="OUT")] = None,
    bits: Bits = None,
    bytes_: Bytes = None,
    memory: Memory = None,
    tokens: Tokens = None,
    trial: Trial = None,
    max_kl: MaxKl = None,
    min_accuracy: MinAccuracy = None,
    maxima: Maxima = None,
    minima: Minima = None,
    within: Within = None,
    tokens_per_second: TokensPerSecond = None,
    sweep: Sweep = None,
    format_: Annotated[
        str,
        typer.Option("--format", help="What to write."),
    ] = "adapter",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Type of what is not quantized, and of the adapter: auto (the model's own type of"
            " 16 bits, else bfloat16), bfloat16, float16 or float32.",
        ),
    ] = "auto",
    adapter_bits: Annotated[
        int | None,
        typer.Option("--adapter-bits", help="8 for an adapter in codes of 8 bits."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print weight files and their bytes, and write nothing."),
    ] = False,
) -> None:
    """Write a configuration, chosen as by pick, in a form that can be deployed."""
    from qsearch.cli.export_progress import export_progress
    from qsearch.deployment.criteria import chosen_criteria
    from qsearch.deployment.exporting import export_configuration, export_sweep, plan_exports
    from qsearch.deployment.storage_options import StorageOptions

    storage = StorageOptions(dtype, adapter_bits)
    options = (bits, bytes_, memory, tokens, trial, max_kl, min_accuracy, maxima, minima, within)
    criteria = chosen_criteria(*options, sweep, tokens_per_second)
    with export_progress(SafeConsole()) as show:
        if dry_run:
            planned = plan_exports(directory, criteria, format_, show, storage)
            rows = [plan.row for plan in planned]
        elif to is None:
            raise InputError("--to OUT: name the folder to write, or give --dry-run")
        elif sweep is None:
            planned = []
            rows = [export_configuration(directory, criteria[0], to, format_, show, storage)]
        else:
            planned = []
            rows = export_sweep(directory, criteria, to, format_, show, storage)
    for number, (own, row) in enumerate(zip(criteria, rows, strict=True)):
        name = format_ if dry_run else str(to)
        name += f" for {own.budget.limit:g} bits" if sweep is not None and own.budget else ""
        print_line(
            f"{'would write' if dry_run else 'wrote'} {name}: trial {int(row['trial'])},"
            f" {row['average_bits']:.4f} average bits, loss {row['loss']:.4f}"
        )
        if dry_run:
            _print_files(planned[number])


def _print_files(plan: PlannedExport) -> None:
    """Print the weight files of an export that is not written."""
    sizes = {**plan.files, "all weight files": plan.total} if len(plan.files) > 1 else plan.files
    rows = [(name, f"{size:,} bytes", readable_size(size)) for name, size in sizes.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, exact, readable in rows:
        print_line(f"  {name:{widths[0]}}  {exact:>{widths[1]}}  {readable:>{widths[2]}}")
