"""Studies as Markdown, as GitHub draws it: for a pull request or an issue."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from qsearch_reports.frames import headline
from qsearch_reports.frames.groups import flatten
from qsearch_reports.frames.origin import origin
from qsearch_reports.names import distinct_names
from qsearch_reports.results import StudyResults, read_results
from qsearch_reports.summaries import facts
from qsearch_reports.summaries.facts import Cells, counted, one_line

_MAX_SETTINGS = 200


def markdown_report(directories: Sequence[Path]) -> str:
    """Return the summary of one study, or of several side by side and then one by one.

    Raises:
        InputError: If a directory holds no study or cannot be read.
    """
    return markdown_summary([read_results(directory) for directory in directories])


def markdown_summary(studies: Sequence[StudyResults]) -> str:
    """Return the summary as Markdown, which ends with a line break."""
    names = distinct_names(studies)
    if len(studies) == 1:
        lines = [f"### {code(names[0])}", "", *_study(studies[0], "####")]
        return "\n".join(lines).rstrip() + "\n"
    lines = [f"### {len(studies)} studies", ""]
    lines += [*_table(facts.comparison_cells(studies, names), {0})]
    lines += [line for text in facts.comparison_words(studies) for line in ("", text)]
    for study, name in zip(studies, names, strict=True):
        shown = html.escape(one_line(name))
        lines += ["", f"<details><summary><code>{shown}</code></summary>", ""]
        lines += [*_study(study, "####"), "", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def code(name: object, limit: int = 80, *, in_table: bool = False) -> str:
    """Return a name as a code span: nothing in it is read as Markdown, HTML, mention or link."""
    text = one_line(name, limit) or "(no name)"
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    inner = f" {text} " if text[0] == "`" or text[-1] == "`" else text
    if in_table:
        inner = inner.replace("|", "\\|")
    return f"{fence}{inner}{fence}"


def _study(study: StudyResults, heading: str) -> Iterable[str]:
    record = study.record
    head = headline(record, study.claims)
    yield f"**{facts.answer(head, study.footprint)}**"
    yield ""
    for warning in facts.warnings(study):
        yield f"> Warning: {code(warning, 400)}"
        yield ""
    parts = [code(record.model), code(record.task), code(record.quantizer), code(record.trainer)]
    if not record.is_trained:
        parts = [code(record.model), code(record.quantizer), f"loss {facts.OF_OBJECTIVE}"]
    if record.source_precision:
        parts.insert(1, record.source_precision.text)
    if record.metric:
        parts.append(f"{code(record.metric.name)} ({record.metric.better} is better)")
    yield " · ".join(parts)
    yield ""
    for label, value in facts.values(record, head):
        yield f"- {label}: {value}"
    if head.best is not None:
        yield from ("", f"{heading} Best configuration at or under each budget", "")
        yield from _table(facts.budget_cells(record))
        if (metrics := facts.metric_cells(record)) is not None:
            yield from ("", *_table(metrics))
    if (uniform := facts.uniform_cells(study.claims)) is not None:
        yield from ("", f"{heading} Compared with uniform quantization", "")
        yield from _table(uniform, {0, 1})
    if head.failed:
        yield from ("", f"{heading} {counted(head.failed, 'failed evaluation').capitalize()}", "")
        yield from _table(facts.failure_cells(record), {1})
    yield from ("", f"{heading} Next", "")
    yield from _fenced(facts.next_commands(head, study.directory), "sh")
    if line := facts.next_in_python(head, study.directory):
        yield from ("", *_fenced([line], "python"))
    yield from _origin(study)


def _origin(study: StudyResults) -> Iterable[str]:
    groups = [("Settings", list(flatten(study.settings or {}).items())[:_MAX_SETTINGS])]
    groups += origin(study.record)["groups"]
    shown = [(title, rows) for title, rows in groups if rows]
    if not shown:
        return
    yield from ("", "<details><summary>Settings and versions</summary>")
    for title, rows in shown:
        cells = Cells((title.lower(), "value"), tuple((str(n), str(v)) for n, v in rows))
        yield ""
        yield from _table(cells, {0, 1})
    yield from ("", "</details>")


def _table(cells: Cells, names: Iterable[int] = ()) -> Iterable[str]:
    """Yield a table, numbers right-aligned."""
    quoted = set(names)
    headings = [
        heading if re.fullmatch(r"[a-z0-9. ]+", heading) else code(heading, 40, in_table=True)
        for heading in cells.headings
    ]
    yield _row(headings)
    yield _row(
        "---" if column in quoted or headings[column] == "trials" else "---:"
        for column in range(len(headings))
    )
    for row in cells.rows:
        yield _row(
            code(cell, 200, in_table=True) if column in quoted and cell else cell
            for column, cell in enumerate(row)
        )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _fenced(commands: Sequence[str], language: str) -> Iterable[str]:
    longest = max((len(run) for text in commands for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}"
    yield from commands
    yield fence
