"""Reading the page's data: what the page unpacks is what Python packed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qsearch_reports.frames import front_frame, points_frame
from qsearch_reports.page import payload
from qsearch_reports.page.payload import compact, json_values, plain
from qsearch_reports.results import StudyResults

from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.storage.study_record import StudyRecord
from tests.reports.realistic_studies import make_record
from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def small() -> StudyRecord:
    return make_record(rounds=1, trials_per_round=1, failed=0)


def points(**columns: list[Any]) -> dict[str, Any]:
    rows = len(next(iter(columns.values())))
    return {"count": rows, "points": {"latest": [True] * rows, **columns}}


@pytest.mark.parametrize("choices", [2**16, 2**16 + 1, 2**32])
def test_choice_indices_of_both_widths_come_back(scripts: Scope, choices: int) -> None:
    values = np.array([0, 1, 255, 256, 65535, choices - 1])
    given = payload.pack(values, choices)
    assert scripts.evaluate("Array.from(await unpack(packed))", packed=given) == values.tolist()


LOSSES = st.sampled_from((0.2, 0.3, 0.4))
TRIALS = st.lists(
    st.tuples(
        st.sampled_from((2.0, 2.5, 3.0, 3.5)), LOSSES, LOSSES | st.just(math.nan), st.booleans()
    ),
    min_size=1,
    max_size=12,
)


@QUICK
@given(
    drawn=st.lists(
        st.tuples(st.sampled_from([2.0, 2.5, 3.0]), st.none() | st.sampled_from([0.1, 0.2, 0.3])),
        min_size=1,
        max_size=9,
    )
)
def test_the_overall_front_is_that_of_the_frames(
    scripts: Scope, drawn: list[tuple[float, float | None]]
) -> None:
    bits, losses = ([*column] for column in zip(*drawn, strict=True))
    found = scripts.evaluate(
        "overallFront(study)", study=points(average_bits=bits, selection_loss=losses)
    )
    frame = pd.DataFrame({"average_bits": bits, "selection_loss": losses}, dtype=float)
    front = front_frame(frame, "selection_loss")
    pairs = {(bits[row], losses[row]) for row in found}
    assert pairs == set(
        front[["average_bits", "selection_loss"]].itertuples(index=False, name=None)
    )
    assert len(found) == len(front)


@QUICK
@example(trials=[(3.0, 0.4, 0.3, True), (3.0, 0.2, 0.3, True)], budget=3.0)
@example(trials=[(3.0, 0.3, math.nan, True), (2.5, 0.4, 0.3, True)], budget=3.2)
@example(trials=[(3.0, 0.3, 0.3, True), (3.0, 0.3, 0.3, True)], budget=3.2)
@given(trials=TRIALS, budget=st.sampled_from((1.9, 2.0, 2.4999, 2.5, 3.2, 9.0)))
def test_best_under_a_budget_is_what_qsearch_pick_chooses(
    scripts: Scope,
    small: StudyRecord,
    trials: list[Any],
    budget: float,
) -> None:
    """By estimated loss where there is one, then by average bits, then by observed loss."""
    bits, losses, expected, completed = zip(*trials, strict=True)
    record = replace(
        small,
        trials=small.trials.iloc[[0] * len(trials)]
        .reset_index(drop=True)
        .assign(
            trial=range(len(trials)),
            average_bits=bits,
            loss=losses,
            estimated_loss=expected,
            status=["completed" if fine else "failed" for fine in completed],
        ),
    )
    frame = points_frame(record)
    study = {"count": len(frame), "points": {name: plain(frame[name]) for name in frame}}
    found = scripts.evaluate("bestUnder(study, budget)", study=study, budget=budget)
    if found is None:
        with pytest.raises(InputError):
            best_under(record, budget)
    else:
        assert frame["trial"][found] == best_under(record, budget)["trial"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<b>&amp;</b>", "&lt;b&gt;&amp;amp;&lt;/b&gt;"),
        ("  two\n\twords ", "two words"),
        ("𝒳" * 61, "𝒳" * 59 + "…"),
        ("𝒳" * 60, "𝒳" * 60),
        (7, "7"),
    ],
)
def test_text_for_plotly_is_one_short_line_without_tags(
    scripts: Scope, name: object, shown: str
) -> None:
    assert scripts.evaluate("plotText(name)", name=name) == shown


ROWS = st.integers(0, 19)
NAMES = st.sampled_from(("loss", "metric", "average_bits", "standard_error", "seconds"))


def is_same(drawn: Any, made: Any, slack: float) -> bool:
    """Whether values are equal, numbers to the digits of a drawing or else within slack."""
    if isinstance(made, dict):
        return drawn.keys() == made.keys() and all(
            is_same(drawn[key], made[key], 7e-7 if key == "customdata" else slack) for key in made
        )
    if isinstance(made, list):
        return len(drawn) == len(made) and all(map(is_same, drawn, made, repeat(slack)))
    if isinstance(made, float) and isinstance(drawn, int | float):
        return math.isclose(drawn, made, rel_tol=6e-7, abs_tol=slack)
    return bool(drawn == made)


def with_gaps(details: list[list[Any]]) -> list[list[Any]]:
    """Return a trace's details as the page has them: a gap is row -1, with as many columns."""
    width = max(map(len, details))
    return [
        [-1 if row is None else row, *more, *[None] * (width - 1 - len(more))]
        for row, *more in details
    ]


def check_drawn_as_made(scripts: Scope, figure: go.Figure, frame: pd.DataFrame) -> None:
    drawn = scripts.evaluate(
        "filled(study, figure)",
        study={"points": {name: plain(frame[name]) for name in frame}},
        figure=compact(figure, frame),
    )
    assert drawn["layout"] == json_values(figure.layout.to_plotly_json())
    for trace, source in zip(drawn["data"], figure.data, strict=True):
        made = json_values(source.to_plotly_json())
        stands_for_others = str(source.meta).startswith(payload._OTHER_PARTS)
        if made.get("customdata") and not stands_for_others:
            made["customdata"] = with_gaps(made["customdata"])
        assert is_same(trace, made, 0.0), source.meta


def test_each_figure_of_a_study_is_drawn_as_it_was_made(
    scripts: Scope, results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(payload, "compact", lambda *given: made.append(given) or {})
    payload.study_payload(results, "a study")
    assert len(made) > 15
    for figure, frame in made:
        check_drawn_as_made(scripts, figure, frame)


@QUICK
@given(
    x=NAMES,
    y=NAMES,
    rows=st.lists(ROWS, min_size=1) | st.lists(ROWS | st.none(), min_size=1),
    scale=st.sampled_from((1.0, 1e-8, 1e8)),
)
def test_columns_of_any_size_are_drawn_as_they_are(
    scripts: Scope, results: StudyResults, x: str, y: str, rows: list[int | None], scale: float
) -> None:
    frame = points_frame(results.record).head(20)
    frame = frame.assign(**{name: frame[name] * scale for name in {x, y}})

    def of(name: str) -> list[Any]:
        return [None if row is None else frame[name][row] for row in rows]

    trace = go.Scatter(
        x=of(x),
        y=of(y),
        error_y={"array": of(x)},
        customdata=[
            [None] if row is None else [row, of_trial, how, 7]
            for row, of_trial, how in zip(rows, of("trial"), of("method"), strict=True)
        ],
    )
    check_drawn_as_made(scripts, go.Figure(trace), frame)
