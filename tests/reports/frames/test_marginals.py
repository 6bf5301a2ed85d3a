"""How the values of a knob shift along the front."""

from __future__ import annotations

import pytest
from qsearch_reports.figures import marginals_figure, value_colours
from qsearch_reports.frames import front_frame, latest_points, marginals_frame, points_frame

from qsearch.storage.study_record import row_configuration


def test_each_front_configuration_has_a_share_for_each_value_that_add_up_to_all(record):
    frame = marginals_frame(record, "scale_dtype")
    front = front_frame(latest_points(points_frame(record)), "selection_loss")
    assert frame["row"].drop_duplicates().tolist() == front.index.tolist()
    assert frame["average_bits"].is_monotonic_increasing
    assert frame.groupby("row")["share"].sum().to_numpy() == pytest.approx(1)
    assert frame["value"].tolist()[:3] == ["bfloat16", "float16", "float32"]


def test_shares_are_of_weights_not_of_layers(record):
    frame = marginals_frame(record, "bits")
    rows = record.latest.set_index("trial")
    total = sum(layer.parameters for layer in record.layers)
    for _, cell in frame.iloc[::9].iterrows():
        configuration = row_configuration(rows.loc[cell["trial"]])
        held = sum(
            layer.parameters
            for layer in record.layers
            if configuration[layer.name]["bits"] == cell["value"]
        )
        assert cell["share"] == pytest.approx(held / total)


def test_bars_stack_the_values_in_the_colours_of_the_heatmap(record):
    knob = record.choices.knobs[0]
    frame = marginals_frame(record, knob.name)
    figure = marginals_figure(frame, knob)
    assert figure.layout.barmode == "stack"
    assert [trace.marker.color for trace in figure.data] == value_colours(len(knob.values))
    assert [trace.name for trace in figure.data] == ["2", "3", "4", "8"]
    rows = frame["row"].drop_duplicates().tolist()
    assert 2 <= len(figure.layout.xaxis.ticktext) <= 14 < len(rows)
    for trace in figure.data:
        assert [details[0] for details in trace.customdata] == rows
