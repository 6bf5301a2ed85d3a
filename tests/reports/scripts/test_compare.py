"""How two configurations differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.results import StudyResults

from qsearch.space.configuration import Knob
from qsearch.storage.study_record import row_configuration
from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import QUICK

pytestmark = pytest.mark.browser


def differences(study_page: Scope, pinned: int, chosen: int, knob: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = study_page.evaluate(
        "{const rows = latestRows(study);"
        " return layerDifferences(study, rows[pinned], rows[chosen], knob)}",
        pinned=pinned,
        chosen=chosen,
        knob=knob,
    )
    return found


@QUICK
@given(pinned=st.integers(0, 110), chosen=st.integers(0, 110), knob=st.integers(0, 4))
def test_layers_differ_by_their_values(
    study_page: Scope, results: StudyResults, pinned: int, chosen: int, knob: int
) -> None:
    record = results.record
    rows = record.latest.sort_values("trial")
    before, after = (row_configuration(rows.iloc[at]) for at in (pinned, chosen))
    named: Knob = record.choices.knobs[knob]
    found = differences(study_page, pinned, chosen, knob)
    for layer, difference in zip(record.layers, found, strict=True):
        a, b = before[layer.name][named.name], after[layer.name][named.name]
        assert (difference["from"], difference["to"]) == (a, b)
        if a == b:
            assert (difference["by"], difference["text"]) == (0, "")
        elif isinstance(a, int) and isinstance(b, int):
            assert difference["by"] == b - a
            assert difference["text"] == f"{b - a:+d}".replace("-", "−")
        else:
            assert (difference["by"], difference["text"]) == (1, f"{a} → {b}")


@QUICK
@given(difference=st.integers(-(10**12), 10**12))
def test_a_difference_of_sizes_has_a_sign_and_a_unit(study_page: Scope, difference: int) -> None:
    text = study_page.evaluate("signedSize(difference)", difference=difference)
    sign = "+" if difference > 0 else "−"
    size = study_page.evaluate("readableSize(size)", size=abs(difference))
    assert text == (f"{sign}{size}" if difference else "0 B")


def figures(study_page: Scope, first: dict[str, Any], second: dict[str, Any], **more: Any) -> Any:
    columns = {name: [first[name], second[name]] for name in first}
    study = {
        "layers": [{"parameters": 3000}, {"parameters": 5000}],
        "metric": {"name": "accuracy"},
        "footprint": None,
        "points": columns,
        **more,
    }
    rows = study_page.evaluate("comparedValues(study, 0, 1)", study=study)
    return {name: texts for name, *texts in rows}


FIRST = {
    "average_bits": 3.5,
    "loss": 0.3,
    "standard_error": 0.01,
    "estimated_loss": 0.31,
    "estimated_loss_std": 0.002,
    "metric": 0.9,
    "metric_standard_error": None,
    "seen": True,
    "method": "warm start",
}
SECOND = {**FIRST, "average_bits": 2.5, "loss": 0.325, "seen": False, "method": "search"}


def test_figures_stand_side_by_side_with_chosen_less_pinned(study_page: Scope) -> None:
    found = figures(study_page, FIRST, SECOND)
    assert found == {
        "average bits": ["3.5000", "2.5000", "−1.0000"],
        "quantized weights": ["3.5 kB", "2.5 kB", "−1.0 kB"],
        "loss (nats)": ["0.3000 ± 0.0100", "0.3250 ± 0.0100", "+0.0250"],
        "estimated loss (nats)": ["0.3100 ± 0.0020", "0.3100 ± 0.0020", "0.0000"],
        "accuracy": ["0.9000", "0.9000", "0.0000"],
        "in training": ["seen", "unseen", ""],
        "method": ["warm start", "search", ""],
    }


def test_a_figure_that_neither_has_is_left_out_and_that_one_has_is_told(study_page: Scope) -> None:
    unknown = {"estimated_loss": None, "estimated_loss_std": None}
    assert "estimated loss (nats)" not in figures(
        study_page, {**FIRST, **unknown}, {**SECOND, **unknown}
    )
    found = figures(study_page, FIRST, {**SECOND, **unknown})
    assert found["estimated loss (nats)"] == ["0.3100 ± 0.0020", "–", "–"]
    found = figures(study_page, {**FIRST, **unknown}, SECOND)
    assert found["estimated loss (nats)"] == ["–", "0.3100 ± 0.0020", "–"]
