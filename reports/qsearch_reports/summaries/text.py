"""Studies as plain text, 80 characters wide: for a terminal, a log or a mail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.cells import cell_len, chop_cells, set_cell_size

from qsearch.claims.sentences import claim_sentences
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames import headline, latest_points, loss_unit, points_frame
from qsearch_reports.names import distinct_names
from qsearch_reports.results import StudyResults, read_results
from qsearch_reports.summaries import facts
from qsearch_reports.summaries.facts import OF_OBJECTIVE, Cells, counted, one_line
from qsearch_reports.summaries.text_plot import front_plot
from qsearch_reports.texts import in_unit

WIDTH = 80


def text_report(directories: Sequence[Path]) -> str:
    """Return the summary of one study, or of several side by side and then one by one.

    Raises:
        InputError: If a directory holds no study or cannot be read.
    """
    return text_summary([read_results(directory) for directory in directories])


def text_summary(results: Sequence[StudyResults]) -> str:
    """Return the summary as text without colours, which ends with a line break."""
    names = distinct_names(results)
    parts: list[list[str]] = []
    if len(results) > 1:
        words = [line for text in facts.comparison_words(results) for line in ("", *_wrap(text))]
        table = _compared(facts.comparison_cells(results, names))
        parts.append([f"{len(results)} studies", *words, "", *table])
    for result, name in zip(results, names, strict=True):
        parts.append(list(_study(result, name)))
    rule = f"\n\n{'-' * WIDTH}\n\n"
    return rule.join("\n".join(part).rstrip() for part in parts) + "\n"


def _study(results: StudyResults, name: str) -> Iterable[str]:
    record = results.record
    head = headline(record, results.claims)
    yield from _wrap(f"{one_line(name)}: {facts.answer(head, results.footprint)}")
    others = replace(results.claims, no_loss=None, warnings=facts.warnings(results))
    for sentence in claim_sentences(others, results.footprint):
        yield from _wrap(sentence)
    yield ""
    rows = [
        ("model", one_line(record.model, WIDTH - 16)),
        *([("source", record.source_precision.text)] if record.source_precision else []),
        *_made_by(record),
        *facts.values(record, head),
    ]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        yield f"{label:{width}}  {value}"
    if head.best is not None:
        yield from ("", "best configuration at or under each budget")
        yield from _put(facts.budget_cells(record))
        if (metrics := facts.metric_cells(record)) is not None:
            yield from ("", *_put(metrics))
        latest = latest_points(points_frame(record))
        loss = "estimated loss" if head.is_estimated else "loss"
        number = int(latest["round"].iloc[0])
        yield ""
        of_round = f", round {number}" if head.is_trained else ""
        loss = in_unit(loss, loss_unit(record))
        yield f"{loss} against average bits{of_round}: * Pareto front, . other"
        yield from front_plot(latest)
    if head.failed:
        yield from ("", counted(head.failed, "failed evaluation"))
        for count, reason, trials in facts.failure_cells(record).rows:
            at = f" (trials {trials})" if trials else ""
            yield from _wrap(f"{count} x {one_line(reason, 200)}{at}", "  ")
    yield from ("", "next")
    for command in facts.next_commands(head, results.directory):
        yield f"  {command}"
    if line := facts.next_in_python(head, results.directory):
        yield from ("", "in Python", f"  {line}")


def _made_by(record: StudyRecord) -> Iterable[tuple[str, str]]:
    metric = record.metric
    of_metric = f"{one_line(metric.name, 20)} ({metric.better} is better)" if metric else ""
    if record.is_trained:
        yield "task", ", ".join(filter(None, (one_line(record.task, 22), of_metric)))
        yield "made by", f"{one_line(record.quantizer, 30)}, {one_line(record.trainer, 30)}"
        return
    yield "quantizer", one_line(record.quantizer, 60)
    yield "loss", OF_OBJECTIVE
    if metric:
        yield "metric", of_metric


def _put(cells: Cells) -> Iterable[str]:
    """Yield a table, right-aligned; headings may be names, which are cut."""
    headings = tuple(one_line(heading, 15) for heading in cells.headings)
    rows = [headings, *cells.rows]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(headings))]
    gap = "  " if 2 * len(widths) + sum(widths) <= WIDTH else " "
    for row in rows:
        yield gap + gap.join(
            f"{' ' * (width - cell_len(cell))}{cell}"
            for cell, width in zip(row, widths, strict=True)
        )


def _compared(cells: Cells) -> Iterable[str]:
    """Yield the comparison, each study's name cut to the width that the values leave."""
    values = Cells(cells.headings[1:], tuple(row[1:] for row in cells.rows))
    right = list(_put(values))
    room = WIDTH - 2 - max(map(cell_len, right))
    names = [cells.headings[0], *(one_line(row[0], room) for row in cells.rows)]
    shown = [set_cell_size(name, min(room, max(map(cell_len, names)))) for name in names]
    for name, cells_text in zip(shown, right, strict=True):
        yield f"  {name}{cells_text}"


def _wrap(text: str, indent: str = "") -> list[str]:
    """Return words in lines that fit; some characters take two places, which textwrap ignores."""
    lines = [indent]
    for word in text.split():
        for part in chop_cells(word, WIDTH - 4):
            gap = " " if lines[-1].strip() else ""
            if cell_len(lines[-1] + gap + part) > WIDTH:
                lines.append(f"{indent}{indent}{part}")
            else:
                lines[-1] += gap + part
    return lines
