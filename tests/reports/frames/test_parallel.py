"""Parallel coordinates: what configurations are made of, and what that gives."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from qsearch_reports.figures import parallel_figure
from qsearch_reports.frames import parallel_axes, parallel_frame

from qsearch.storage.study_record import row_configuration


@pytest.fixture(scope="module")
def frame(record):
    return parallel_frame(record)


def test_numbers_are_averaged_over_weights_and_texts_by_their_places(record, frame):
    rows = record.latest.set_index("trial")
    row = frame.iloc[7]
    configuration = row_configuration(rows.loc[row["trial"]])
    weights = [layer.parameters for layer in record.layers]
    places = ("bfloat16", "float16", "float32")
    bits = [configuration[layer.name]["bits"] for layer in record.layers]
    types = [places.index(configuration[layer.name]["scale_dtype"]) for layer in record.layers]
    assert row["mean bits"] == pytest.approx(np.average(bits, weights=weights))
    assert row["mean scale_dtype"] == pytest.approx(np.average(types, weights=weights))


def test_lines_fall_into_quarters_of_equal_size_by_loss(frame):
    sizes = frame.groupby("group").size()
    assert sizes.index.tolist() == [0, 1, 2, 3]
    assert sizes.max() - sizes.min() <= 1
    losses = frame.groupby("group")["selection_loss"]
    assert (losses.max()[:-1].to_numpy() <= losses.min()[1:].to_numpy()).all()


def test_ticks_are_round_values_within_the_range_or_the_texts_of_a_knob(record, frame):
    by_title = {axis.title: axis for axis in parallel_axes(record, frame)}
    assert list(by_title) == ["average bits", *record.choices.names, "estimated loss", "accuracy"]
    unknown = parallel_axes(record, frame.assign(metric=math.nan))
    assert [axis.title for axis in unknown] == list(by_title)[:-1]
    assert by_title["scale_dtype"].ticks == ((0, "bfloat16"), (1, "float16"), (2, "float32"))
    for axis in by_title.values():
        assert len(axis.ticks) >= 3
        if axis.title != "scale_dtype":
            assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value, _ in axis.ticks)
            assert all(float(label) == pytest.approx(value) for value, label in axis.ticks)


def test_each_line_runs_through_all_axes_with_its_row_number_and_ends_in_a_gap(record, frame):
    axes = parallel_axes(record, frame)
    figure = parallel_figure(frame, axes)
    assert len(figure.data) == 4
    rows = []
    for trace in figure.data:
        assert len(trace.x) == len(trace.y) == len(trace.customdata)
        lines = np.array([details[0] for details in trace.customdata]).reshape(-1, len(axes) + 1)
        assert (lines[:, :-1] == lines[:, :1]).all()
        assert (lines[:, -1] == -1).all()
        heights = np.reshape(np.array(trace.y, dtype=float), lines.shape)
        assert np.isnan(heights[:, -1]).all()
        assert ((heights[:, :-1] >= 0) & (heights[:, :-1] <= 1)).all()
        rows += lines[:, 0].tolist()
    assert sorted(rows) == frame.index.tolist()


def test_losses_farther_apart_than_a_float_holds_have_ticks_at_both_ends(record):
    sign = np.where(record.trials["trial"] % 2 == 0, 1.7e308, -1.7e308)
    huge = replace(record, trials=record.trials.assign(loss=sign, estimated_loss=math.nan))
    frame = parallel_frame(huge)
    axis = next(a for a in parallel_axes(huge, frame) if a.column == "selection_loss")
    assert [at for at, _ in axis.ticks] == [-1.7e308, 1.7e308]
