"""How sure a mean over seeds is."""

from __future__ import annotations

import numpy as np
from scipy import stats

from qsearch._arrays import Floats


def half_width(values: Floats) -> float:
    """Return half of the 95 % confidence interval of the mean (Student's t); NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def interval(values: Floats) -> str:
    """Return the mean with its 95 % confidence interval over seeds."""
    mean = f"{values.mean():.4f}"
    return mean if len(values) < 2 else f"{mean} ± {half_width(values):.4f}"
