"""How well the surrogate predicted the observed losses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.figures import predictions_figure
from qsearch_reports.frames import calibration_frame, predictions_frame
from scipy.stats import binomtest, norm


def errors_of(values):
    return pd.DataFrame({"error": np.asarray(values, dtype=float)})


def test_a_table_of_predictions_is_summed_up_in_its_attributes(record):
    frame = predictions_frame(record)
    assert frame.attrs["n"] == len(frame)
    difference = frame["observed"] - frame["predicted"]
    assert frame.attrs["rmse"] == pytest.approx(math.sqrt((difference**2).mean()))
    assert frame.attrs["rank_correlation"] > 0.9
    assert frame.attrs["coverage"] == pytest.approx((frame["error"].abs() <= 1.96).mean(), abs=0.02)


def test_a_prediction_without_a_standard_deviation_has_no_standardised_error(record):
    trials = record.trials.assign(predicted_loss_std=record.trials["predicted_loss_std"] * 0)
    frame = predictions_frame(replace(record, trials=trials))
    assert frame["error"].isna().all()
    assert math.isnan(frame.attrs["coverage"])
    assert calibration_frame(frame).empty
    assert "interval" not in predictions_figure(frame).layout.title.subtitle.text


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_shares_and_limits_are_those_of_a_binomial_test(errors, level):
    (row,) = calibration_frame(errors_of(errors), (level,)).to_dict("records")
    within = int(sum(abs(error) <= norm.ppf((1 + level) / 2) for error in errors))
    limits = binomtest(within, len(errors)).proportion_ci(0.95, method="exact")
    assert row["share"] == pytest.approx(within / len(errors))
    assert (row["low"], row["high"]) == pytest.approx((limits.low, limits.high), abs=1e-9)
    assert row["n"] == len(errors)


def test_normal_errors_are_calibrated_and_errors_twice_as_large_are_not():
    errors = norm.ppf((np.arange(2000) + 0.5) / 2000)
    good = calibration_frame(errors_of(errors))
    assert good["share"].to_numpy() == pytest.approx(good["level"].to_numpy(), abs=0.01)
    bad = calibration_frame(errors_of(2 * errors))
    assert (bad["high"] < bad["level"]).all()


def test_observations_outside_their_interval_are_told_apart(record):
    frame = predictions_frame(record)
    by_part = {trace.meta: trace for trace in predictions_figure(frame).data}
    assert len(by_part["outside"].x) == (frame["error"].abs() > 1.96).sum()
    drawn = [details[0] for part in ("line", "outside") for details in by_part[part].customdata]
    assert sorted(drawn) == frame["row"].tolist()
    assert list(by_part["front"].x) == list(by_part["front"].y)
