"""What summaries say of a study, as text and cells without markup; names are given as they are.

The terminal's summary and the Markdown one say the same; each escapes names in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.cells import cell_len, set_cell_size

from qsearch._text import without_controls
from qsearch.claims.sentences import claim_sentence, difference_text, size_text
from qsearch.claims.study_claims import Claims
from qsearch.monitoring.durations import duration_text
from qsearch.plugins.footprint import Footprint
from qsearch.storage.study_record import StudyRecord, selection_loss
from qsearch_reports.frames import (
    Headline,
    budget_frame,
    common_budgets,
    common_reference,
    comparison_frame,
    failures_frame,
    headline,
    incomparable,
    more_metrics,
    study_budgets,
)
from qsearch_reports.names import python_study, shell_path
from qsearch_reports.results import StudyResults, is_unfinished
from qsearch_reports.summaries.table import least_budget, with_error
from qsearch_reports.texts import weights_text

MAX_REASONS = 10
"""Reasons of failures that a summary lists; the report lists all."""

OF_OBJECTIVE = "of a Python objective"
"""What the loss is of in a study without task and trainer."""

_MAX_TRIALS = 12
_COMPARED_BUDGETS = 4


@dataclass(frozen=True)
class Cells:
    """A table of texts."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def one_line(name: object, limit: int = 80) -> str:
    """Return a name in one line, with escapes for what is obeyed and not shown."""
    text = without_controls(" ".join(str(name).split()))
    return text if cell_len(text) <= limit else set_cell_size(text, limit - 1).rstrip() + "…"


def answer(head: Headline, footprint: Footprint | None = None) -> str:
    """Return the sentence that a summary opens with."""
    best, close = head.best, head.close_to_best
    if best is None or close is None:
        if head.failed:
            return f"{counted(head.failed, 'evaluation')} failed, none completed: no front yet."
        return "No evaluation has finished yet."
    only = " It is the only evaluation so far." if head.evaluations == 1 else ""
    if head.claim is not None:
        return claim_sentence(head.claim, footprint) + only
    compared = ""
    if close["trial"] != best["trial"]:
        compared = f" against {_loss(best, head)} at {size_text(best)}"
    full = "" if head.full_precision is None else f"; full precision {head.full_precision.loss:.4f}"
    return (
        f"Within 1 % of the best loss at {size_text(close)}:"
        f" {_named_loss(close, head)}{compared}{full}.{only}"
    )


def _named_loss(row: pd.Series, head: Headline) -> str:
    return f"{'estimated loss' if head.is_estimated else 'loss'} {_loss(row, head)}"


def _loss(row: pd.Series, head: Headline) -> str:
    error = "estimated_loss_std" if head.is_estimated else "standard_error"
    return with_error(row["selection_loss"], row[error])


def values(record: StudyRecord, head: Headline) -> list[tuple[str, str]]:
    """Return the headline values, as names and values."""
    failed = f", {head.failed:,} failed" if head.failed else ""
    weights = sum(layer.parameters for layer in record.layers)
    rows = [
        ("evaluations", f"{head.evaluations:,} completed{failed}"),
        ("configurations", f"{head.configurations:,}, {head.on_front:,} on the segmented front"),
        ("rounds", f"{head.rounds} in {head.seconds / 60:.1f} minutes")
        if head.is_trained
        else ("time", f"{duration_text(head.seconds)} of evaluation and search"),
        ("quantized", f"{counted(len(record.layers), 'layer')}, {weights_text(weights)}"),
    ]
    if record.searched_bits:
        low, high = record.searched_bits
        rows.insert(2, ("searched", f"{low:.4g} to {high:.4g} average bits"))
    if head.hypervolume is not None and record.reference_point:
        loss, bits = record.reference_point
        value = f"{head.hypervolume:.4f} from (loss {loss:.4g}, {bits:.4g} average bits)"
        rows.insert(2, ("hypervolume", value))
    return rows


def warnings(results: StudyResults) -> tuple[str, ...]:
    """Return what limits the results: of the data, as the study was told, and of the results."""
    return (*results.record.warnings, *results.claims.warnings)


def uniform_cells(claims: Claims) -> Cells | None:
    """Return each baseline and what is as good in fewer bytes; None where there is none."""
    if not claims.uniform:
        return None
    rows = []
    for claim in claims.uniform:
        own = (
            ("none smaller" if claim.smaller else "nothing smaller in the round", "", "")
            if claim.row is None
            else (
                f"trial {int(claim.row['trial'])}, {size_text(claim.row)}",
                f"{100 * claim.saved:.0f} %",
                "" if claim.difference is None else difference_text(claim.difference),
            )
        )
        rows.append((f"{claim.name}, {size_text(claim.baseline)}", *own))
    return Cells(("baseline", "as good", "saved", "difference"), tuple(rows))


def budget_cells(record: StudyRecord) -> Cells:
    """Return the best configuration at or under each budget, without columns that no row knows."""
    frame = budget_frame(record, study_budgets(record))
    columns = [
        ("budget", [f"{value:g}" for value in frame["budget"]]),
        ("trial", [str(int(value)) for value in frame["trial"]]),
        ("bits", [f"{value:.2f}" for value in frame["average_bits"]]),
    ]
    if frame["bytes"].notna().any():
        columns.append(("MB", [f"{value / 1e6:.1f}" for value in frame["bytes"]]))
    name = record.metric.name if record.metric else ""
    values = {"loss": "loss", "estimated_loss": "estimated loss", "metric": name}
    columns += _measured_columns(frame, values)
    if record.is_trained:
        columns.append(("seen", ["yes" if seen else "no" for seen in frame["seen"]]))
    return _cells(columns)


def metric_cells(record: StudyRecord) -> Cells | None:
    """Return the other metrics of the rows of :func:`budget_cells`; None where there are none."""
    frame = budget_frame(record, study_budgets(record))
    names = {key: metric.name for key, metric in more_metrics(record).items()}
    measured = _measured_columns(frame, names)
    if not measured:
        return None
    return _cells([("budget", [f"{value:g}" for value in frame["budget"]]), *measured])


def _measured_columns(
    frame: pd.DataFrame, values: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Return values with their errors, by heading, of the columns that any row knows."""
    columns = []
    for value, heading in values.items():
        error = {"loss": "standard_error", "estimated_loss": "estimated_loss_std"}.get(
            value, f"{value}_standard_error"
        )
        if frame[value].notna().any():
            pairs = zip(frame[value].astype(float), frame[error].astype(float), strict=True)
            columns.append((heading, [with_error(*pair) for pair in pairs]))
    return columns


def _cells(columns: Sequence[tuple[str, list[str]]]) -> Cells:
    headings, texts = zip(*columns, strict=True)
    return Cells(headings, tuple(zip(*texts, strict=True)))


def failure_cells(record: StudyRecord) -> Cells:
    """Return why evaluations failed, the most frequent reasons first; reasons are data."""
    failures = failures_frame(record)
    rows = [
        (f"{row['count']:,}", str(row["reason"]) or "no reason given", _some(str(row["trials"])))
        for row in failures.head(MAX_REASONS).to_dict("records")
    ]
    if more := len(failures) - len(rows):
        rest = int(failures["count"].iloc[MAX_REASONS:].sum())
        rows.append((f"{rest:,}", f"{counted(more, 'other reason')}; the report has them", ""))
    return Cells(("count", "reason", "trials"), tuple(rows))


def next_commands(head: Headline, directory: str) -> list[str]:
    """Return the commands that come next, for a POSIX shell, each in one line."""
    path = shell_path(directory)
    commands = [f"qsearch status {path}"]
    best = head.named
    if best is not None:
        bits = least_budget(float(best["average_bits"]))
        export = [f"qsearch export {path} --bits {bits} --to OUT"] if head.is_trained else []
        commands = [f"qsearch pick {path} --bits {bits}", *export, f"qsearch report {path}"]
    return [without_controls(command) for command in commands]


def next_in_python(head: Headline, directory: str) -> str:
    """Return how Python uses what comes next; "" if ``qsearch export`` does, or there is nothing.

    It is one expression, in one line.
    """
    best = head.named
    if best is None or head.is_trained:
        return ""
    bits = least_budget(float(best["average_bits"]))
    return f"qsearch.quantized(model, {python_study(directory)}.best(bits={bits}).configuration)"


def comparison_cells(results: Sequence[StudyResults], names: Sequence[str]) -> Cells:
    """Return several studies side by side; hypervolumes are of one reference point."""
    records = [result.record for result in results]
    by_round = comparison_frame(records, names)
    last = by_round.groupby("study", sort=False)["hypervolume"].last().to_dict()
    budgets = common_budgets(records, _COMPARED_BUDGETS)
    rows = []
    for record, name in zip(records, names, strict=True):
        losses = selection_loss(budget_frame(record, budgets))  # Of the objective already.
        values = (last.get(name, math.nan), *losses)
        evaluations = f"{headline(record).evaluations:,}"
        rows.append((name, evaluations, *(with_error(value, math.nan) for value in values)))
    at = (f"at {budget:g}" for budget in budgets)
    return Cells(("study", "evaluations", "hypervolume", *at), tuple(rows))


def comparison_words(results: Sequence[StudyResults]) -> list[str]:
    """Return how to read :func:`comparison_cells`, and what cannot be compared, as paragraphs."""
    records = [result.record for result in results]
    words = []
    if unfinished := sum(map(is_unfinished, results)):
        words.append(f"Not finished, so that this may still change: {unfinished} of them.")
    if differing := incomparable(results):
        words.append(
            f"These studies differ in {' and '.join(differing)}, so their losses mean different"
            " things."
        )
    losses = (
        "At a budget of average bits: the loss, the estimated one where it is known, of the best"
        " configuration that fits."
    )
    common = common_reference(records)
    if common is None:
        return [*words, f"{losses} No study has a reference point yet: hypervolume is not known."]
    (loss, bits), least = common
    reference = (
        f"Hypervolumes are of the last finished round, from one reference point (loss {loss:.4g},"
        f" {bits:.4g} average bits), divided by the area between it and (loss 0, {least:.4g}"
        " average bits)."
    )
    return [*words, f"{losses} {reference}"]


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``2 layers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _some(trials: str) -> str:
    numbers = trials.split(", ")
    if len(numbers) <= _MAX_TRIALS:
        return trials
    return f"{', '.join(numbers[:_MAX_TRIALS])} and {len(numbers) - _MAX_TRIALS:,} more"
