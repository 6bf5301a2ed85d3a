"""Summaries as plain text: what they say of a study, and that they fit a terminal."""

from __future__ import annotations

import io
import math
import re
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qsearch_reports.frames import headline
from qsearch_reports.results import StudyResults
from qsearch_reports.summaries.facts import answer, next_commands
from qsearch_reports.summaries.markdown import markdown_summary
from qsearch_reports.summaries.table import least_budget, summary_table
from qsearch_reports.summaries.text import WIDTH, text_summary
from qsearch_reports.summaries.text_plot import front_plot
from rich.cells import cell_len
from rich.console import Console

from qsearch.claims.claims import Claim, UniformClaim
from qsearch.claims.paired_difference import PairedDifference
from qsearch.claims.study_claims import Claims
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.source_precision import SourcePrecision
from qsearch.storage.study_record import StudyRecord
from tests.reports.realistic_studies import (
    OF_TRAINING,
    hostile_record,
    make_record,
    objective_results,
    only_failures,
)

HOSTILE = "\x1b[2Jevil\nqsearch: all is well <b>`|\u202e" + "長" * 300


def summary(*records: StudyRecord) -> str:
    return text_summary([StudyResults(record, f"runs/{record.name}") for record in records])


def lines_after(text: str, heading: str) -> list[str]:
    return text.split(f"{heading}\n", 1)[1].split("\n\n", 1)[0].splitlines()


@pytest.fixture(scope="module")
def one() -> StudyRecord:
    return make_record(rounds=1, trials_per_round=1, failed=0)


@pytest.fixture(scope="module")
def none() -> StudyRecord:
    return make_record(rounds=0)


def test_the_first_sentence_answers_how_few_bits_are_enough(record: StudyRecord) -> None:
    close = headline(record).named
    assert close is not None
    first = " ".join(summary(record).split("\n\n")[0].split())
    assert first.startswith(f"{record.name}: Within 1 % of the best loss at ")
    assert f" ({close['average_bits']:.2f} average bits)" in first
    assert f" at {close['bytes'] / 1e6:.1f} MB " in first
    assert f"estimated loss {close['selection_loss']:.4f}" in first


def test_a_claim_is_a_paired_difference_with_its_interval(record: StudyRecord) -> None:
    row = record.latest.iloc[0]
    claim = Claim(row, PairedDifference(0.0012, 0.0052, -0.0092, 0.0116, 384), 0.4, 14)
    footprint = Footprint(8_000_000, 40_000_000, 1_000_000)
    text = answer(headline(record, Claims(claim)), footprint)
    assert text == (
        f"No measurable loss at {row['bytes'] / 1e6:.1f} MB ({row['average_bits']:.2f} average"
        " bits): compared with full precision over the same 384 examples, the loss differs by"
        " +0.0012 ± 0.0104 nats (95 % interval for all 14 configurations at once), so it is at most"
        " 2.9 % higher. In 16 bits the model takes 56.0 MB."
    )


def test_the_source_and_what_limits_results_are_said(record: StudyRecord) -> None:
    precision = SourcePrecision(("Q4_1",), ("Q8_0",), 5.0)
    session = replace(record.sessions[-1], source_precision=precision, warnings=("few examples",))
    study = StudyResults(replace(record, sessions=(session,)), "runs/a")
    text, markdown = text_summary([study]), markdown_summary([study])
    for shown in (text, markdown):
        assert "Q4_1 weights (5 bits), Q8_0 embeddings" in shown
        assert "arning: " in shown
        assert "few examples" in shown


def test_baselines_stand_next_to_what_is_as_good(record: StudyRecord) -> None:
    latest = record.latest.sort_values("average_bits")
    small, large = latest.iloc[0], latest.iloc[-1]
    claims = Claims(
        uniform=(
            UniformClaim("uniform 2 bits", small),
            UniformClaim("uniform 3 bits", large, smaller=5),
            UniformClaim(
                "uniform 8 bits", large, small, PairedDifference(-0.01, 0.01, -0.03, 0.01, 9), 5
            ),
        ),
        warnings=("training has not converged",),
    )
    study = StudyResults(record=record, directory="runs/a", claims=claims)
    text = " ".join(text_summary([study]).split())
    assert "converged The last finished round has nothing smaller than uniform 2 bits, " in text
    assert "No smaller configuration is as good as uniform 3 bits, " in text
    saved = 1 - small["bytes"] / large["bytes"]
    assert f"with {100 * saved:.0f} % fewer bytes: " in text
    assert "-0.0100 ± 0.0200 nats." in text
    markdown = markdown_summary([study])
    assert "### Compared with uniform quantization" in markdown
    assert re.search("uniform 2 bits.*nothing smaller in the round", markdown)
    assert re.search("uniform 3 bits.*none smaller", markdown)


def test_every_figure_of_the_headline_is_there(record: StudyRecord) -> None:
    head, text = headline(record), summary(record)
    facts = dict(re.findall(r"^(\w[\w ]*?)  +(.+)$", text, re.MULTILINE))
    assert facts["evaluations"] == f"{head.evaluations} completed, {head.failed} failed"
    assert facts["configurations"].startswith(f"{head.configurations}, {head.on_front} on the")
    low, high = record.searched_bits or (math.nan, math.nan)
    assert facts["searched"] == f"{low:.4g} to {high:.4g} average bits"
    assert facts["hypervolume"].startswith(f"{head.hypervolume:.4f} from (loss 0.9, 7.5 ")
    assert facts["rounds"] == f"{head.rounds} in {head.seconds / 60:.1f} minutes"
    assert facts["model"] == record.model


@pytest.mark.parametrize("metric", [None, Metric("accuracy", "higher")])
def test_an_objective_is_summed_up_without_training(metric: Metric | None) -> None:
    study = objective_results(metric)
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(study.record))
    text, markdown = text_summary([study]), markdown_summary([study])
    of_table = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in (text, markdown, of_table):
        assert not OF_TRAINING.search(shown.split("<details>")[0])
        assert ("accuracy" in shown) == (metric is not None)
    assert "\nloss against average bits: * Pareto front" in text
    assert "of evaluation and search" in text
    head = headline(study.record)
    assert head.named is not None
    bits = least_budget(head.named["average_bits"])
    use = f"load_study('runs/quickstart').best(bits={bits}).configuration)"
    assert text.endswith(f"in Python\n  qsearch.quantized(model, qsearch.{use}\n")
    assert f"```python\nqsearch.quantized(model, qsearch.{use}\n```" in markdown


def test_many_failures_stay_short(record: StudyRecord) -> None:
    failed = only_failures(record)
    reasons = [f"reason {place % 50}" for place in range(len(failed.trials))]
    text = summary(replace(failed, trials=failed.trials.assign(reason=reasons)))
    listed = lines_after(text, "300 failed evaluations")
    assert len(listed) == 11
    assert "40 other reasons; the report has them" in listed[-1]


def test_all_failed_says_so_and_where_to_look(record: StudyRecord) -> None:
    text = summary(only_failures(record))
    assert "300 evaluations failed, none completed: no front yet." in text
    assert "300 x loss is nan" in text
    assert "and 108 more" in text
    assert "qsearch status runs/quickstart" in text
    assert "qsearch pick" not in text


def test_a_study_without_results_says_how_to_watch_it(none: StudyRecord) -> None:
    text = summary(none)
    assert "quickstart: No evaluation has finished yet." in text
    assert lines_after(text, "next") == ["  qsearch status runs/quickstart"]
    assert front_plot(points([(2.0, math.nan)])) == []


def test_one_evaluation_is_a_point_and_said_to_be_the_only_one(one: StudyRecord) -> None:
    text = summary(one)
    assert "only evaluation so far" in " ".join(text.split())
    assert sum(line.count("*") for line in text.splitlines() if " |" in line) == 1


def test_the_commands_pick_what_the_first_sentence_names(record: StudyRecord) -> None:
    head = headline(record)
    pick, export, report = next_commands(head, "my runs/-a")
    close = head.named
    assert close is not None
    assert shlex.split(pick)[:3] == ["qsearch", "pick", "my runs/-a"]
    assert shlex.split(pick)[-2:] == ["--bits", least_budget(close["average_bits"])]
    assert shlex.split(export)[-2:] == ["--to", "OUT"]
    assert shlex.split(next_commands(head, "-rf")[0])[2] == "./-rf"
    assert shlex.split(report) == ["qsearch", "report", "my runs/-a"]


def test_several_studies_are_compared_from_one_reference_point(record: StudyRecord) -> None:
    other = replace(
        make_record(name="other", model="another", quality=1.2, estimated=False),
        reference_point=(1.5, 7.5),
    )
    text = summary(record, other)
    assert "These studies differ in model, so their losses mean different things." in text
    assert "\nloss (nats) against average bits" in text
    assert "one reference point (loss 1.5, 7.5 average bits)" in " ".join(text.split())
    heading = next(line for line in text.splitlines() if line.startswith("  study "))
    rows = lines_after(text, heading)
    assert [row.split()[0] for row in rows] == ["quickstart", "other"]
    assert float(rows[0].split()[2]) > float(rows[1].split()[2])
    assert text.count("Within 1 % of") == 2


@pytest.mark.parametrize("case", ["record", "one", "none", "hostile"])
def test_no_line_is_wider_than_a_terminal_or_steers_it(
    case: str, request: pytest.FixtureRequest
) -> None:
    record = hostile_record(HOSTILE) if case == "hostile" else request.getfixturevalue(case)
    for text in (summary(record), text_summary([StudyResults(record, "d")] * 2)):
        commands = ("  qsearch pick", "  qsearch export", "  qsearch report", "  qsearch status")
        for line in text.splitlines():
            assert line == line.rstrip()
            assert cell_len(line) <= WIDTH or line.startswith(commands)
        assert not set(text) & set("\x1b\u202e\r")
        assert "\nqsearch: all is well" not in text


# The plot


def points(pairs: list[tuple[float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(pairs, columns=["average_bits", "selection_loss"])
    return frame.assign(trial=frame.index, on_front=False)


finite = st.floats(0.01, 9, allow_nan=False)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_the_best_configuration_is_drawn_at_the_bottom_above_its_bits(
    pairs: list[tuple[float, float]],
) -> None:
    *rows, axis, _ = front_plot(points(pairs), 40, 10)
    margin = rows[0].index("|") + 1
    assert len(rows) in (1, 10)
    assert len({row.index("|") for row in rows}) == 1
    marks = {(r, c) for r, row in enumerate(rows) for c in range(40) if row[margin:][c:][:1] == "*"}
    bits = [pair[0] for pair in pairs]
    best = min(pair[1] for pair in pairs)
    at = min(pair[0] for pair in pairs if pair[1] == best)
    span = max(bits) - min(bits)
    column = round((at - min(bits)) / span * 39) if span else 0
    assert (len(rows) - 1, column) in marks
    assert axis.endswith("+" + "-" * 40)


def test_poor_configurations_do_not_press_the_front_flat() -> None:
    drawn = front_plot(points([(2.0, 0.5), (3.0, 0.4), (4.0, 0.3), (2.5, 1000.0)]), 30, 8)
    assert drawn[0].split("|")[0].strip() == "0.6"
    assert "^" in drawn[0]
    assert len([line for line in drawn if "*" in line]) == 3
    assert drawn[-1].split() == ["2.00", "3.00", "4.00"]


@given(st.integers(200, 900), st.integers(-3, 3))
def test_the_commands_budget_fits_what_is_chosen_however_it_was_rounded(
    record: StudyRecord, hundredths: int, steps: int
) -> None:
    bits = hundredths / 100
    for _ in range(abs(steps)):
        bits = math.nextafter(bits, math.inf if steps > 0 else 0)
    head = headline(record)
    assert head.close_to_best is not None
    chosen = replace(head, close_to_best=head.close_to_best.copy())
    chosen.close_to_best["average_bits"] = bits
    budget = float(shlex.split(next_commands(chosen, "a")[0])[-1])
    assert bits <= budget < bits + 0.0101


def test_huge_losses_keep_the_width(record: StudyRecord) -> None:
    sign = np.where(record.trials["trial"] % 2 == 0, 1.7e308, -1.7e308)
    huge = dict.fromkeys(("loss", "estimated_loss", "standard_error", "accuracy"), sign)
    text = summary(replace(record, trials=record.trials.assign(**huge)))
    plot = lines_after(text, "* Pareto front, . other")
    assert max(map(len, plot)) <= WIDTH
    table = lines_after(text, "best configuration at or under each budget")
    assert max(map(len, table)) <= 2 * WIDTH
