"""The benchmark of reports: its made studies, its peers' pages, its times, and its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qsearch_reports.page.page import write_report
from qsearch_reports.results import StudyResults, read_results

from benchmarks.report import ACTIONS, table
from benchmarks.report_browser import opened, run_script
from benchmarks.report_peers import front_rows, in_webgl, study_figures, write_plotly_page
from benchmarks.report_studies import random_study, save_study
from tests.reports.chromium import ChromiumMissingError, find_chromium, missing, run_chromium


@pytest.fixture(scope="module")
def made() -> StudyResults:
    return random_study(evaluations=60, blocks=2, roles=5)


def test_a_made_study_is_read_back_as_it_was_saved(made: StudyResults, tmp_path: Path) -> None:
    save_study(made, tmp_path)
    read = read_results(tmp_path)
    assert read.record.layers == made.record.layers
    assert read.record.rounds == made.record.rounds
    assert (
        read.record.trials["configuration"].tolist() == made.record.trials["configuration"].tolist()
    )
    assert read.footprint == made.footprint
    assert [event["event"] for event in read.events] == [event["event"] for event in made.events]
    assert made.layer_scores is not None
    assert read.layer_scores is not None
    assert np.array_equal(read.layer_scores, made.layer_scores)


def test_a_segment_front_has_less_loss_at_more_bits(made: StudyResults) -> None:
    trials = made.record.trials
    for _, segment in trials[trials["on_front"]].sort_values("average_bits").groupby("segment"):
        assert segment["estimated_loss"].is_monotonic_decreasing
    assert front_rows(made) == trials.index[trials["on_front"]].tolist()


def test_the_peers_page_has_the_figures_of_the_report_and_no_link(
    made: StudyResults, tmp_path: Path
) -> None:
    drawn = study_figures(made)
    webgl = in_webgl(made, drawn)
    assert {trace.type for trace in webgl["loss"].data if trace.mode == "markers"} == {"scattergl"}
    assert [trace.type for trace in webgl["parallel"].data] == ["parcoords"]
    for figures in (drawn, webgl):
        write_plotly_page(figures, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count('class="plotly-graph-div"') == len(drawn) == 10
        assert "<script src=" not in page


@pytest.mark.browser
def test_a_report_and_its_peer_are_timed_while_they_mark_the_same(
    made: StudyResults, tmp_path: Path
) -> None:
    try:
        find_chromium()
    except ChromiumMissingError as error:
        missing(str(error))
    save_study(made, tmp_path)
    report = write_report([tmp_path], tmp_path / "report.html")
    write_plotly_page(study_figures(made), tmp_path / "page.html")
    with run_chromium() as driver:
        with opened(driver, report):
            own = run_script(driver, "report_linked.js", 1)
        with opened(driver, tmp_path / "page.html"):
            peer = run_script(driver, "report_plain.js", 1, front_rows(made))
    assert set(own["ms"]) | set(peer["ms"]) == set(ACTIONS)
    for what in ("marked of the front", "marked by the box"):
        assert own[what] == peer[what] > 0
    assert set(peer["linked figures"]) <= set(own["linked figures"])


def test_each_page_and_each_action_has_a_line_of_the_tables() -> None:
    times = {"opening_seconds": 1.234, "fastest": 1.2, "slowest": 1.3}
    rows = [
        {"study": "made", "page": "report", "megabytes": 3.6711, **times},
        {"page": "report", "linked figures": ["loss"]},
        {"action": "zooming", "report (ms)": 41.6, "Plotly, SVG (ms)": 60.2},
    ]
    lines = [line for line in table(rows) if line and not line.startswith("|---")]
    assert lines == [
        "| study | page | MB | seconds until it is drawn |",
        "| made | report | 3.67 | 1.23 (1.20–1.30) |",
        "| milliseconds until it is seen | report | Plotly, SVG | Plotly, WebGL |",
        "| zooming | 42 | 60 |  |",
    ]
