"""Which layers the search protects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.figures import sensitivity_figure
from qsearch_reports.frames import sensitivity_frame
from qsearch_reports.frames.sensitivity import rank_correlation
from scipy.stats import spearmanr

from qsearch.space.layers import LayerSpec
from qsearch.storage.study_record import row_configuration
from tests.reports.realistic_studies import make_results


def test_a_layers_sensitivity_is_the_rise_under_the_choice_that_it_bears_worst(results):
    frame = sensitivity_frame(results)
    assert frame["layer"].tolist() == list(range(len(results.record.layers)))
    assert frame["highest_score"].tolist() == results.layer_scores.max(axis=1).tolist()


def test_pinned_layers_are_not_what_the_search_gave(results):
    first, *others = results.record.layers
    pinned = replace(results, record=replace(results.record, pinned=(first.name,)))
    frame, whole = sensitivity_frame(pinned), sensitivity_frame(results)
    assert frame["name"].tolist() == [layer.name for layer in others]
    assert frame["layer"].tolist() == list(range(1, len(others) + 1))
    expected = rank_correlation(whole["highest_score"][1:], whole["given"][1:])
    assert frame.attrs["rank_correlation"] == pytest.approx(expected, nan_ok=True)


def test_what_is_given_is_the_mean_over_the_configurations_asked_for(results):
    rows = results.record.latest.iloc[:3]
    frame = sensitivity_frame(results, rows["configuration"].tolist())
    configurations = [row_configuration(row) for _, row in rows.iterrows()]
    for layer, given_ in zip(results.record.layers, frame["given"], strict=True):
        assert given_ == pytest.approx(np.mean([c[layer.name]["bits"] for c in configurations]))
    assert frame.attrs["configurations"] == 3


def test_a_knob_of_texts_is_given_by_its_places(results):
    frame = sensitivity_frame(results, knob="scale_dtype")
    assert (frame.attrs["knob"], frame.attrs["unit"]) == ("scale_dtype", "places")
    assert frame["given"].between(0, 2).all()
    assert sensitivity_figure(frame).layout.yaxis.title.text.startswith("mean place of scale_dtype")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_spearmans_and_unknown_for_a_constant(pairs):
    first, second = (pd.Series(column, dtype=float) for column in zip(*pairs, strict=True))
    found = rank_correlation(first, second)
    if first.nunique() == 1 or second.nunique() == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.parametrize(
    "change", [{"layer_scores": None}, {"layer_scores": np.zeros((36, 4))}], ids=["none", "zeros"]
)
def test_without_sensitivities_the_figure_says_so(results, change):
    figure = sensitivity_figure(sensitivity_frame(replace(results, **change)))
    assert "not known" in figure.layout.annotations[0].text
    assert not figure.data


def test_layers_of_a_role_share_a_colour_and_a_symbol_and_know_their_position(results):
    figure = sensitivity_figure(sensitivity_frame(results))
    assert [trace.name for trace in figure.data] == list(
        dict.fromkeys(layer.role for layer in results.record.layers)
    )
    looks = {(trace.marker.color, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == len(figure.data)
    drawn = [details[0] for trace in figure.data for details in trace.customdata]
    assert sorted(drawn) == list(range(len(results.record.layers)))
    assert "; rank correlation 0." in figure.layout.title.subtitle.text


def test_many_roles_end_in_one_trace_of_the_others():
    layers = tuple(LayerSpec(f"layer.{n}", f"role {n}", 0, (8, 8)) for n in range(12))
    figure = sensitivity_figure(sensitivity_frame(make_results(layers=layers, rounds=1)))
    assert len(figure.data) == 9
    assert figure.data[-1].name == "4 other roles"
    assert len(figure.data[-1].x) == 4


def test_a_layer_that_costs_nothing_is_drawn_at_the_left_with_its_true_value(results):
    scores = results.layer_scores.copy()
    scores[0] = 0
    figure = sensitivity_figure(sensitivity_frame(replace(results, layer_scores=scores)))
    drawn = [
        (x, details)
        for trace in figure.data
        for x, details in zip(trace.x, trace.customdata, strict=True)
    ]
    least_x, details = min(drawn, key=lambda pair: pair[0])
    assert details[0] == 0
    assert details[5] == 0
    assert least_x > 0
