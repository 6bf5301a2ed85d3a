"""What is said of the chosen configuration, and which others treat a layer like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.results import StudyResults

from qsearch.deployment.budgets import readable_size
from qsearch.storage.study_record import row_configuration
from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import QUICK

pytestmark = pytest.mark.browser


@QUICK
@given(place=st.integers(0, 110), layer=st.integers(0, 35), knob=st.integers(0, 4))
def test_alike_are_the_latest_configurations_that_give_a_layer_the_same_value(
    study_page: Scope, results: StudyResults, place: int, layer: int, knob: int
) -> None:
    record = results.record
    rows = record.latest.sort_values("trial")
    name, knob_name = record.layers[layer].name, record.choices.knobs[knob].name
    values = [row_configuration(row)[name][knob_name] for _, row in rows.iterrows()]
    expected = [
        trial for trial, value in zip(rows["trial"], values, strict=True) if value == values[place]
    ]
    found = study_page.evaluate(
        "{const rows = latestRows(study);"
        " const codes = alikeIn(study, {chosen: rows[place], knob}, layer);"
        " return rows.filter((row) => codes.has(study.points.configuration[row]))"
        ".map((row) => study.points.trial[row])}",
        place=place,
        layer=layer,
        knob=knob,
    )
    assert found == expected


def test_figures_of_a_row_are_those_of_its_trial(study_page: Scope, results: StudyResults) -> None:
    row = results.record.latest.sort_values("trial").iloc[17]
    said = dict(study_page.evaluate("rowValues(study, latestRows(study)[17])"))
    bits, sizes = row["average_bits"], results.footprint
    assert sizes is not None
    assert said == {
        "average bits": f"{bits:.4f}",
        "quantized weights": readable_size(bits * sizes.quantized_weights / 8),
        "weight files": readable_size(sizes.file_bytes(bits)),
        "loss": f"{row['loss']:.4f} ± {row['standard_error']:.4f}",
        "estimated loss": f"{row['estimated_loss']:.4f} ± {row['estimated_loss_std']:.4f}",
        "accuracy": f"{row['metric']:.4f} ± {row['metric_standard_error']:.4f}",
        "in training": "seen" if row["seen"] else "unseen",
        "segment front": f"{'on' if row['on_front'] else 'not on'} it (segment {row['segment']})",
        "method": row["method"],
    }


def test_what_is_not_known_of_a_row_is_left_out(study_page: Scope) -> None:
    script = """{
      const points = {...study.points, estimated_loss: study.points.estimated_loss.map(() => null)};
      return rowValues({...study, points, footprint: null}, 0).map(([name]) => name);
    }"""
    names = study_page.evaluate(script)
    assert "estimated loss" not in names
    assert "weight files" not in names
    assert "loss" in names
