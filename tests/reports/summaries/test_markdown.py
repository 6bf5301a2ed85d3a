"""Summaries as Markdown, read back by a parser of Markdown: names must come out as text."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from qsearch_reports.frames import budget_frame, headline, study_budgets
from qsearch_reports.results import StudyResults
from qsearch_reports.summaries.facts import one_line
from qsearch_reports.summaries.markdown import code, markdown_summary

from qsearch.storage.study_record import StudyRecord
from tests.reports.realistic_studies import hostile_record

PARSER = MarkdownIt("commonmark").enable("table")
HOSTILE = (
    "a|b ``` <img src=x onerror=alert(1)> @everyone #1 [x](http://e.vil) *b* </details>\n\n# h "
    "\x1b[2J\u202e`"
)


def summary(*records: StudyRecord, directory: str = "runs/q") -> str:
    return markdown_summary([StudyResults(record, directory) for record in records])


def tokens(text: str) -> list[Token]:
    """All tokens, those inside lines included."""
    found = PARSER.parse(text)
    return [inner for token in found for inner in (token, *(token.children or ()))]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, by row; code as its text."""
    found: list[list[list[str]]] = []
    for token in PARSER.parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level >= 4 and found:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_name_is_read_back_as_code_and_nothing_else(name: str) -> None:
    found = tokens(f"before {code(name)} after")
    assert [t.type for t in found] == [
        "paragraph_open",
        "inline",
        "text",
        "code_inline",
        "text",
        "paragraph_close",
    ]
    assert found[3].content == (one_line(name) or "(no name)")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_name_stays_in_its_cell(name: str) -> None:
    text = f"| a | b |\n| --- | --- |\n| {code(name, in_table=True)} | 1 |"
    assert tables(text) == [[["a", "b"], [one_line(name) or "(no name)", "1"]]]


def test_the_headline_and_the_table_at_budgets_are_the_studys(record: StudyRecord) -> None:
    text = summary(record)
    close = headline(record).named
    assert close is not None
    assert text.startswith("### `quickstart`\n\n**Within 1 % of ")
    assert f" ({close['average_bits']:.2f} average bits)" in text.splitlines()[2]
    heading, *rows = tables(text)[0]
    assert heading == [
        "budget",
        "trial",
        "bits",
        "MB",
        "loss",
        "estimated loss",
        "accuracy",
        "seen",
    ]
    best = budget_frame(record, study_budgets(record))
    assert [int(row[1]) for row in rows] == best["trial"].tolist()
    assert [row[4].split(" ± ")[1] for row in rows] == [f"{e:.4f}" for e in best["standard_error"]]


def test_settings_and_versions_are_folded(record: StudyRecord) -> None:
    settings = {"search": {"rounds": 3, "average_bits": [2.25, 7.25]}, "name": "quickstart"}
    text = markdown_summary([StudyResults(record, "d", settings=settings)])
    before, folded = text.split("<details><summary>Settings and versions</summary>\n\n")
    assert folded.rstrip().endswith("</details>")
    assert "search.rounds" not in before
    names = {row[0]: row[1] for table in tables(folded) for row in table}
    assert names["search.average_bits"] == "[2.25, 7.25]"
    assert names["torch"] == "2.13.0"


def test_hostile_names_stay_names_everywhere() -> None:
    record = hostile_record(HOSTILE)
    study = StudyResults(record, HOSTILE, settings={HOSTILE: {"x": HOSTILE}})
    for text in (markdown_summary([study]), markdown_summary([study, study])):
        found = tokens(text)
        kinds = {token.type for token in found}
        assert not kinds & {"link_open", "image", "em_open", "html_inline"}
        blocks = {t.content.strip() for t in found if t.type == "html_block"}
        tags = set(re.findall("<[^>]*>", "".join(blocks)))
        assert tags <= {
            "<details>", "</details>", "<summary>", "</summary>", "<code>", "</code>"
        }  # fmt: skip
        headings = [t for t in found if t.type == "heading_open"]
        assert {t.tag for t in headings} == {"h3", "h4"}
        shown = "".join(t.content for t in found if t.type == "text")
        assert "@everyone" not in shown
        assert "#1" not in shown
        assert not set(text) & set("\x1b\u202e")


def test_commands_are_in_a_fence_that_a_directory_cannot_end(record: StudyRecord) -> None:
    text = summary(record, directory="a ``` b\n````\n# heading")
    (fence,) = [token for token in PARSER.parse(text) if token.type == "fence"]
    assert len(fence.content.splitlines()) == 3
    assert all(line.startswith("qsearch ") for line in fence.content.splitlines())


def test_it_fits_a_comment_however_large_the_study(record: StudyRecord) -> None:
    trials = record.trials.assign(
        status="failed", reason=[f"{'long reason ' * 50}{place}" for place in record.trials.index]
    )
    settings = {f"section{place}": {"field": "x" * 500} for place in range(500)}
    text = markdown_summary([StudyResults(replace(record, trials=trials), "d", settings=settings)])
    assert len(text) < 65536  # GitHub's limit.
