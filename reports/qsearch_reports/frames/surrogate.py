"""How well the surrogate predicted the observed losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import loss_unit, points_frame
from qsearch_reports.frames.sensitivity import rank_correlation

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def predictions_frame(record: StudyRecord) -> pd.DataFrame:
    """Return what the surrogate predicted of configurations before they were evaluated.

    ``attrs`` holds ``n``, ``loss_unit`` (``nats``, or "" if it is not known), and NaN if ``n`` is
    0: ``rmse`` (root mean square of observed − predicted), ``rank_correlation`` (Spearman's; NaN
    for constants) and ``coverage`` (share of observations within the central 95 % of their
    prediction).
    """
    points = points_frame(record)
    points = points[points["predicted_loss"].notna() & points["loss"].notna()]
    std = points["predicted_loss_std"]
    difference = points["loss"] - points["predicted_loss"]
    frame = pd.DataFrame(
        {
            "row": points.index.astype(int),
            **{name: points[name].to_numpy() for name in ("trial", "round", "seen")},
            "predicted": points["predicted_loss"].to_numpy(),
            "std": std.to_numpy(),
            "observed": points["loss"].to_numpy(),
            "error": (difference / std.where(std > 0)).to_numpy(),
        }
    )
    within = calibration_frame(frame, (0.95,))["share"]
    frame.attrs = {
        "n": len(frame),
        "loss_unit": loss_unit(record),
        "rmse": float(np.sqrt((difference**2).mean())) if len(frame) else math.nan,
        "rank_correlation": rank_correlation(frame["predicted"], frame["observed"]),
        "coverage": float(within.iloc[0]) if len(within) else math.nan,
    }
    return frame


def calibration_frame(predictions: pd.DataFrame, levels: Sequence[float] = _LEVELS) -> pd.DataFrame:
    """Return how often observations lay within the surrogate's central intervals.

    Limits are those of Clopper and Pearson, as if observations were independent; those of one round
    share the surrogate, so the true ones are wider.
    """
    errors = predictions["error"].dropna().abs().to_numpy(dtype=float)
    n = len(errors)
    level = np.asarray(levels if n else (), dtype=float)
    within = np.array([(errors <= norm.ppf((1 + p) / 2)).sum() for p in level], dtype=float)
    with np.errstate(invalid="ignore"):
        low, high = beta.ppf(0.025, within, n - within + 1), beta.ppf(0.975, within + 1, n - within)
    return pd.DataFrame(
        {
            "level": level,
            "share": within / max(n, 1),
            "low": np.where(within == 0, 0.0, low),
            "high": np.where(within == n, 1.0, high),
            "n": np.full(len(level), n),
        }
    )
