"""What is said of each layer of one configuration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from qsearch_reports.results import StudyResults

from qsearch.storage.study_record import row_configuration
from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser

ROW = 23


@pytest.mark.parametrize("knob", range(5))
def test_a_layers_place_is_that_of_its_value_and_the_legend_has_the_weights_at_each(
    study_page: Scope, results: StudyResults, knob: int
) -> None:
    record = results.record
    configuration = row_configuration(record.latest.sort_values("trial").iloc[ROW])
    named = record.choices.knobs[knob]
    values = [configuration[layer.name][named.name] for layer in record.layers]
    places, legend = study_page.evaluate(
        "{const row = latestRows(study)[at]; const list = document.createElement('ul');"
        " fillLegend(list, study, row, knob);"
        " return [layerPlaces(study, row, knob),"
        " Array.from(list.children, (item) => item.textContent)]}",
        at=ROW,
        knob=knob,
    )
    assert places == [named.values.index(value) for value in values]
    weights: Counter[Any] = Counter()
    for layer, value in zip(record.layers, values, strict=True):
        weights[value] += layer.parameters
    assert legend == [
        f"{value}{100 * weights[value] / weights.total():.1f} %" for value in named.values
    ]


def test_colours_of_a_difference_are_the_same_number_in_both_schemes(study_page: Scope) -> None:
    light, dark = study_page.evaluate("[DIVERGING.light, DIVERGING.dark]")
    assert len(light) == len(dark) == len({*light, *dark}) / 2
    assert len(light) % 2 == 1  # The middle one is of no difference.
