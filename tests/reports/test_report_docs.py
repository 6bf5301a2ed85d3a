"""The pages that document frames, figures and cards say what the code does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from qsearch_reports import figures, frames
from qsearch_reports.results import StudyResults

from tests.reports.realistic_studies import make_results

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "report-frames.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)\(.*?\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def documented_columns(section: str) -> list[str]:
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in first for name in re.findall("`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def made(results: StudyResults) -> dict[str, pd.DataFrame]:
    """Every frame that has a table of its columns."""
    record = results.record
    both = [results, make_results(name="other", seed=1, rounds=2, trials_per_round=12)]
    records, names = [one.record for one in both], ["quickstart", "other"]
    methods = frames.group_methods(both, names)
    predictions = frames.predictions_frame(record)
    fronts = frames.study_fronts_frame(records, names)
    edges, _ = frames.common_edges(records)
    return {
        "points_frame": frames.points_frame(record),
        "failures_frame": frames.failures_frame(record),
        "budget_frame": frames.budget_frame(record, [3.0]),
        "hypervolume_frame": frames.hypervolume_frame(record),
        "progress_frame": frames.progress_frame(results),
        "training_frame": frames.training_frame(record),
        "timeline_frame": frames.timeline_frame(results),
        "phases_frame": frames.phases_frame(results),
        "predictions_frame": predictions,
        "calibration_frame": frames.calibration_frame(predictions),
        "sensitivity_frame": frames.sensitivity_frame(results),
        "marginals_frame": frames.marginals_frame(record, "bits"),
        "parallel_frame": frames.parallel_frame(record),
        "comparison_frame": frames.comparison_frame(records, names),
        "study_fronts_frame": fronts,
        "method_frame": frames.method_frame(fronts, names, methods),
        "time_frame": frames.time_frame(records, names, [3.0]),
        "outcomes_frame": frames.outcomes_frame(records, methods, edges),
    }


def test_each_frame_has_the_columns_of_its_table(
    made: dict[str, pd.DataFrame], results: StudyResults
) -> None:
    for name, frame in made.items():
        means = [f"mean {knob}" for knob in results.record.choices.names]
        told = [
            column
            for documented in documented_columns(SECTIONS[name])
            for column in (means if documented == "mean KNOB" else [documented])
        ]
        assert told == list(frame.columns), name
        assert not frame.empty, name


def test_every_table_belongs_to_a_frame(made: dict[str, pd.DataFrame]) -> None:
    assert {name for name, text in SECTIONS.items() if documented_columns(text)} == made.keys()


@pytest.mark.parametrize("package", [frames, figures], ids=["frames", "figures"])
def test_every_frame_and_figure_is_named(package: object) -> None:
    for name in vars(package):
        if name.endswith(("_frame", "_figure")):
            assert f"`{name}(" in PAGE, name


def test_figures_attrs_are_those_that_frames_have(made: dict[str, pd.DataFrame]) -> None:
    for name in ("predictions_frame", "sensitivity_frame"):
        before = SECTIONS[name].split("| column")[0]
        assert {f"`{key}`" for key in made[name].attrs} <= set(re.findall("`[a-z_]+`", before))


@pytest.mark.parametrize(("name", "count"), [("report-frames.md", 4), ("report.md", 1)])
def test_the_examples_run(
    name: str,
    count: int,
    results: StudyResults,
    study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.chdir(study(results.record, "quickstart").parent)
    page = (DOCS / name).read_text(encoding="utf-8").split("## In a notebook")[-1]
    source = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    exec(compile(source.replace("runs/quickstart", "quickstart"), name, "exec"), {})
    assert len(shown) == count
    assert all(figure.data for figure in shown)
