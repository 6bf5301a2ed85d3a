"""What the report of a large study weighs, how fast it opens and follows, next to Plotly's pages.

    python -m benchmarks.report [--quick]

Studies are made, in sizes that the targets name. All pages are opened in turn in one headless
Chromium without a GPU; peers draw the same figures of the same study. ``--quick`` makes small
studies, to see that all works, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from qsearch_reports.page.assets import packed_plotly
from qsearch_reports.page.page import write_report
from qsearch_reports.results import StudyResults

from benchmarks.objectives import ROOT
from benchmarks.recording import Benchmark, fill_table
from benchmarks.report_browser import opened, opening_seconds, run_script
from benchmarks.report_peers import front_rows, in_webgl, study_figures, write_plotly_page
from benchmarks.report_studies import random_study, save_study
from tests.reports.chromium import run_chromium

DOCS = ROOT / "docs" / "benchmarks.md"
REPORT, SVG, WEBGL = "report", "Plotly, SVG", "Plotly, WebGL"
ACTIONS = {
    "slider": "moving the budget slider by one step",
    "key": "choosing by an arrow key",
    "front": "selecting the front",
    "box, moving": "dragging a box over a quarter, each move",
    "box": "letting the box go",
    "pan, moving": "panning, each move",
    "pan": "letting go after panning",
    "zoom": "zooming",
    "parallel": "drawing parallel coordinates",
}
"""What is timed, by the names that scripts have for it."""
_LINKED = ("slider", "key", "front", "box")
"""Actions that all figures follow."""


@dataclass(frozen=True)
class Size:
    """A study that is made.

    Args:
        evaluations: Number of configurations.
        blocks: Blocks of the model.
        roles: Layers of each block.
    """

    evaluations: int
    blocks: int
    roles: int

    @property
    def text(self) -> str:
        """What it is called."""
        return f"{self.evaluations:,} configurations of {self.blocks * self.roles} layers"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        wide: A study of many layers.
        long: A study of many evaluations; its figures are followed.
        openings: How often each page is opened.
        turns: How often each action is timed.
    """

    wide: Size
    long: Size
    openings: int
    turns: int


FULL = Plan(Size(2000, 36, 7), Size(5000, 6, 6), openings=7, turns=15)
QUICK = Plan(Size(40, 3, 7), Size(120, 2, 6), openings=1, turns=2)


def main() -> None:
    """Measure all, and write ``results/report.json`` and the table of the documentation."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small studies; write nothing")
    quick = parser.parse_args().quick
    benchmark = Benchmark("report")
    measure(benchmark, QUICK if quick else FULL)
    if not quick:
        written = json.loads(benchmark.write().read_text(encoding="utf-8"))
        fill_table(DOCS, "report", table(written["rows"]))


def measure(benchmark: Benchmark, plan: Plan) -> None:
    """Measure all that a plan says.

    Args:
        benchmark: Where rows and claims go.
        plan: Sizes of studies, and how often.
    """
    with tempfile.TemporaryDirectory() as folder, run_chromium() as driver:
        results = {}
        pages: dict[tuple[str, str], Path] = {}
        for size in (plan.wide, plan.long):
            made = random_study(size.evaluations, size.blocks, size.roles)
            results[size] = made
            place = Path(folder) / str(len(pages))
            pages[size.text, REPORT] = _report(benchmark, size, made, place)
            pages |= {(size.text, peer): page for peer, page in _peers(made, place).items()}
        _openings(benchmark, driver, pages, plan)
        of_long = {kind: page for (study, kind), page in pages.items() if study == plan.long.text}
        _actions(benchmark, driver, of_long, results[plan.long], plan)


def _report(benchmark: Benchmark, size: Size, made: StudyResults, place: Path) -> Path:
    """Write a study's report from its directory, and record how long that takes."""
    save_study(made, place)
    # Whoever writes a report packs Plotly's script with it.
    packed_plotly.cache_clear()
    start = perf_counter()
    page = write_report([place], place / "report.html")
    seconds = perf_counter() - start
    benchmark.claim(f"{size.text}: seconds of writing the report", seconds, None, "lower")
    return page


def _peers(made: StudyResults, place: Path) -> dict[str, Path]:
    """Write Plotly's own pages of a study's figures."""
    drawn = study_figures(made)
    pages = {}
    for kind, its in {SVG: drawn, WEBGL: in_webgl(made, drawn)}.items():
        pages[kind] = place / f"{kind}.html"
        write_plotly_page(its, pages[kind])
    return pages


def _openings(
    benchmark: Benchmark, driver: Any, pages: Mapping[tuple[str, str], Path], plan: Plan
) -> None:
    """Record what each page weighs and how long it takes to be drawn."""
    names = {" · ".join(key): page for key, page in pages.items()}
    seconds = opening_seconds(driver, names, plan.openings)
    opening, megabytes = {}, {}
    for (study, kind), page in pages.items():
        key = study, kind
        times = seconds[" · ".join(key)]
        opening[key], megabytes[key] = median(times), page.stat().st_size / 1e6
        benchmark.row(
            study=study,
            page=kind,
            megabytes=round(megabytes[key], 3),
            opening_seconds=round(opening[key], 3),
            fastest=round(min(times), 3),
            slowest=round(max(times), 3),
        )
    for size, mine in ((plan.wide, 6.0), (plan.long, None)):
        own, peer = (size.text, REPORT), (size.text, SVG)
        benchmark.claim(f"{size.text}: megabytes of the report", megabytes[own], mine, "lower")
        benchmark.claim(f"{size.text}: seconds of opening it", opening[own], 2.0, "lower")
        smaller = megabytes[own] / megabytes[peer]
        benchmark.claim(f"{size.text}: megabytes over those of {SVG}", smaller, 1.0, "lower")
        faster = opening[own] / opening[peer]
        benchmark.claim(f"{size.text}: seconds of opening over {SVG}", faster, 1.0, "lower")


def _actions(
    benchmark: Benchmark, driver: Any, pages: Mapping[str, Path], made: StudyResults, plan: Plan
) -> None:
    """Record how long pages of one study take to show what the reader does."""
    rows = front_rows(made)
    found = {}
    for kind, page in pages.items():
        with opened(driver, page):
            if kind == REPORT:
                found[kind] = run_script(driver, "report_linked.js", plan.turns)
            else:
                found[kind] = run_script(driver, "report_plain.js", plan.turns, rows)
    for kind, page_found in found.items():
        values = {name: value for name, value in page_found.items() if name != "ms"}
        benchmark.row(page=kind, **values)
    ms = {kind: {name: median(v) for name, v in one["ms"].items()} for kind, one in found.items()}
    for name, what in ACTIONS.items():
        taken = {f"{kind} (ms)": round(its[name], 1) for kind, its in ms.items() if name in its}
        benchmark.row(action=what, **taken)
    study = plan.long.text
    for name in _LINKED:
        what = f"{study}: milliseconds of {ACTIONS[name]}"
        benchmark.claim(what, ms[REPORT][name], 100.0, "lower")
    for name in ("key", "front", "box", "zoom"):
        for peer in (SVG, WEBGL):
            ratio = ms[REPORT][name] / ms[peer][name]
            what = f"{study}: milliseconds of {ACTIONS[name]} over {peer}"
            benchmark.claim(what, ratio, 1.0, "lower")
    ratio = ms[SVG]["parallel"] / ms[WEBGL]["parallel"]
    what = f"{study}: {ACTIONS['parallel']}, SVG lines over Plotly's own in WebGL"
    benchmark.claim(what, ratio, 1.0, "lower")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tables of the documentation, as lines of Markdown.

    Args:
        rows: Rows of the record.
    """
    opening = [row for row in rows if "opening_seconds" in row]
    lines = ["", "| study | page | MB | seconds until it is drawn |", "|---|---|---|---|"]
    lines += [
        f"| {row['study']} | {row['page']} | {row['megabytes']:.2f} | {row['opening_seconds']:.2f}"
        f" ({row['fastest']:.2f}–{row['slowest']:.2f}) |"
        for row in opening
    ]
    pages = (REPORT, SVG, WEBGL)
    lines += ["", f"| milliseconds until it is seen | {' | '.join(pages)} |", "|---|---|---|---|"]
    for row in rows:
        if "action" in row:
            shown = [row.get(f"{page} (ms)") for page in pages]
            cells = ["" if value is None else f"{value:.0f}" for value in shown]
            lines.append(f"| {row['action']} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
