"""Fronts of any round, on the same axes."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from qsearch_reports.figures import front_figure, front_ranges
from qsearch_reports.figures.fronts import latest_front_figure
from qsearch_reports.frames import latest_points, points_frame, segment_edges


@pytest.mark.parametrize("value", ["loss", "metric"])
def test_ranges_of_all_rounds_hold_every_point_with_its_error(record, value):
    points = points_frame(record)
    ranges = front_ranges(points, value)
    error = points["standard_error" if value == "loss" else "metric_standard_error"]
    assert ranges.y[0] < (points[value] - error).min()
    assert ranges.y[1] > (points[value] + error).max()
    assert ranges.x[0] < points["average_bits"].min()
    assert ranges.x[1] > points["average_bits"].max()


def test_rounds_drawn_with_the_same_ranges_share_their_axes(record):
    points = points_frame(record)
    ranges = front_ranges(points)
    layouts = [
        front_figure(
            points[points["round"] == number], record.segment_edges, record.metric, ranges=ranges
        ).layout
        for number in (1, 2)
    ]
    assert layouts[0].xaxis.range == layouts[1].xaxis.range == ranges.x
    assert layouts[0].yaxis.range == layouts[1].yaxis.range == ranges.y


def test_of_very_many_points_only_those_on_a_front_have_bars(record):
    latest = latest_points(points_frame(record))
    many = pd.concat([latest] * 9, ignore_index=True)
    figure = front_figure(many, record.segment_edges, record.metric)
    barred = {trace.name for trace in figure.data if trace.error_y.array is not None}
    assert barred == {"seen, on segment front", "unseen, on segment front"}
    assert "only for points on segment fronts" in figure.layout.title.subtitle.text
    assert (
        front_figure(latest, record.segment_edges, record.metric).layout.title.subtitle.text is None
    )


def test_a_front_by_bytes_has_the_same_points_and_segments_at_their_bytes(results):
    record, footprint = results.record, results.footprint
    latest = latest_points(points_frame(record))
    edges = segment_edges(record, footprint)
    by_bits, by_bytes = (
        front_figure(latest, edges[size], record.metric, size=size)
        for size in ("average_bits", "bytes")
    )
    for of_bits, of_bytes in zip(by_bits.data, by_bytes.data, strict=True):
        expected = footprint.fixed_bytes + of_bits.x * footprint.quantized_weights / 8
        assert abs(of_bytes.x - expected).max() <= 1  # Bytes are whole.
        assert (of_bytes.y == of_bits.y).all()
    lines = [shape.x0 for shape in by_bytes.layout.shapes]
    assert lines == list(edges["bytes"])
    assert by_bytes.layout.xaxis.ticksuffix == "B"


def test_the_latest_front_is_against_the_size_of_the_study(results):
    record = replace(results.record, size="bytes")
    by_bytes = latest_front_figure(record, results.footprint)
    assert by_bytes.layout.title.text == "Loss against file size, round 4"
    assert min(by_bytes.data[0].x) == latest_points(points_frame(record))["bytes"].min()
    assert latest_front_figure(record).layout.title.text == "Loss against average bits, round 4"
