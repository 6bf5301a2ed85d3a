"""``qsearch evaluate``: figures of data that no search has seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

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
    from qsearch.deployment.evaluating import EvaluatedModel, SplitEvaluation
    from qsearch.deployment.harness import HarnessEvaluation
    from qsearch.plugins.protocols import Split


class EvaluatedSplit(Enum):
    """Data that configurations are evaluated on."""

    TEST = "test"
    VALIDATION = "validation"


@rare_collection()
def evaluate(
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
    sweep: Sweep = None,
    split: Annotated[
        EvaluatedSplit | None, typer.Option("--split", help="Data to evaluate on; test if omitted.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", help="Tokens of a sequence, of a language task.", min=2),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--in",
            help="Evaluate the files of picked configurations in an inference engine, too:"
            " llama.cpp.",
            metavar="ENGINE",
        ),
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            "--lm-eval",
            help="Run these tasks of lm-evaluation-harness on packed exports instead: names, and"
            " paths of YAML files, comma-separated.",
            metavar="TASKS",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only the first examples of each task of --lm-eval.", min=1),
    ] = None,
    json_: Json = False,
) -> None:
    """Evaluate picked configurations, baselines and the unquantized model on unseen data."""
    from qsearch.deployment.criteria import chosen_criteria
    from qsearch.deployment.evaluating import evaluate_split
    from qsearch.deployment.harness import evaluate_harness
    from qsearch.storage.study_record import read_study

    options = (bits, bytes_, memory, tokens, trial, max_kl, min_accuracy, maxima, minima, within)
    criteria = chosen_criteria(*options, sweep, tokens_per_second)
    if lm_eval is None and limit is not None:
        raise InputError("--limit is for tasks of --lm-eval")
    if lm_eval is not None and any(option is not None for option in (split, length, engine)):
        raise InputError("--lm-eval has data of its own; leave --split, --length and --in out")
    record = read_study(directory)
    rows = [own.row(record, directory) for own in criteria]
    console = SafeConsole(stderr=True)
    if lm_eval is not None:
        # Without a status line: lm_eval has progress bars of its own.
        results = evaluate_harness(
            directory,
            record,
            rows,
            parse_tasks(lm_eval),
            limit,
            console.print,
        )
        if json_:
            print_line(json.dumps(results.as_json()))
        else:
            _print_scores(results)
        return
    name: Split = "validation" if split is EvaluatedSplit.VALIDATION else "test"
    with console.status("") as status:
        found = evaluate_split(
            directory,
            record,
            rows,
            name,
            length,
            lambda what: status.update(f"evaluating {what}"),
            engine,
        )
    if json_:
        print_line(json.dumps(found.as_json()))
        return
    _print(found)


def _print(found: SplitEvaluation) -> None:
    from qsearch._text import with_error

    names = list(dict.fromkeys(n for model in found.models for n in model.evaluation.metrics))
    print_table(
        ("model", "bits", "MB", "loss", *names),
        [
            (
                model.label,
                *_sizes(model),
                with_error(model.evaluation.loss, model.evaluation.standard_error),
                *(_metric(model, name) for name in names),
            )
            for model in found.models
        ],
    )
    for line in (*_of_fewer_examples(found, names), *_of_earlier_calls(found)):
        print_line(line)
    _print_speeds(found)
    if not found.differences:
        return
    labels = {model.name: model.label for model in found.models}
    print_line("")
    print_table(
        ("model", "less", "of", "difference", "95 % interval", "examples"),
        [
            (
                labels[one.name],
                labels[one.other],
                one.metric,
                f"{one.difference.difference:+.4f}",
                f"{one.difference.low:+.4f} to {one.difference.high:+.4f}",
                str(one.difference.examples),
            )
            for one in found.differences
        ],
    )
    print_line(f"\ndifferences are over the same examples of the {found.split} data")
    if found.split == "validation":
        print_line("the search has selected on these data; --split test evaluates on others")


def _print_speeds(found: SplitEvaluation) -> None:
    measured = [(model.name, one.speed) for model in found.models if (one := model.engine)]
    if not measured:
        return
    print_line("")
    print_table(
        ("model", "threads", "prompt tokens/s", "generated tokens/s", "peak MB"),
        [
            (
                name,
                str(speed.threads),
                f"{speed.prompt_tokens_per_second:.1f}",
                f"{speed.generation_tokens_per_second:.1f}",
                f"{speed.peak_bytes / 1e6:.1f}",
            )
            for name, speed in measured
        ],
    )


def _of_fewer_examples(found: SplitEvaluation, names: Sequence[str]) -> Iterator[str]:
    """Yield a line on each metric that is of fewer examples than the loss."""
    for name in names:
        counts = {(model.examples(name), model.examples()) for model in found.models}
        fewer = sorted((own, of) for own, of in counts if own and of and own < of)
        if fewer:
            own, of = fewer[0]
            yield f"{name}: of {own} of the {of} examples"


def _of_earlier_calls(found: SplitEvaluation) -> Iterator[str]:
    """Yield what was not evaluated again, and why what an earlier call evaluated was."""
    kept = sum(model.kept for model in found.models)
    if kept:
        yield (
            f"{kept} of the {len(found.models)} models were evaluated before; to evaluate them"
            f" again, delete {found.folder}"
        )
    if found.outdated:
        yield f"evaluations of before are replaced: they differ in {', '.join(found.outdated)}"


def parse_tasks(text: str) -> list[str]:
    """Return the names and paths of ``--lm-eval``."""
    tasks = [task.strip() for task in text.split(",")]
    if not all(tasks):
        raise InputError(f"--lm-eval {text!r}: give names or paths of tasks, comma-separated")
    return tasks


def _print_scores(results: HarnessEvaluation) -> None:
    from qsearch._text import with_error

    print_table(
        ("task", "metric", "value", "model", "bits"),
        [
            (
                score.task,
                score.metric,
                with_error(score.value, score.standard_error),
                model.name,
                "" if model.row is None else f"{model.row['average_bits']:.4f}",
            )
            for model in results.models
            for score in model.results.scores
        ],
    )
    if results.limit is not None:
        print_line(f"\nof the first {results.limit} examples of each task")


def _sizes(model: EvaluatedModel) -> tuple[str, str]:
    if model.row is None:
        return "", ""
    nbytes = model.file_bytes
    return f"{model.row['average_bits']:.4f}", "" if nbytes is None else f"{nbytes / 1e6:.1f}"


def _metric(model: EvaluatedModel, name: str) -> str:
    from qsearch._text import with_error

    metric = model.evaluation.metrics.get(name)
    return "" if metric is None else with_error(metric.value, metric.standard_error)
