"""The best configuration at or under each of some budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.plugins.trial_columns import metric_columns
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import metric_values, more_metrics, with_objective

_BUDGETS = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)


def study_budgets(record: StudyRecord) -> list[float]:
    """Return the budgets that a study is summarised at: some within its interval, and its end.

    Those that no configuration of the last finished round fits are left out, and those that buy
    nothing more than a smaller one does, except the end.

    Returns:
        Average bits, rising.
    """
    low, high = record.segment_edges[0], record.segment_edges[-1]
    inside = [budget for budget in _BUDGETS if low < budget < high]
    if len(inside) < 3:
        inside = [round(float(budget), 2) for budget in np.linspace(low, high, 9)[1:-1]]
    rows = budget_frame(record, (*inside, high)).dropna(subset="trial")
    gains = ~rows.duplicated("trial") | (rows["budget"] == high)
    return [float(budget) for budget in rows[gains]["budget"]]


def budget_frame(record: StudyRecord, budgets: Sequence[float]) -> pd.DataFrame:
    """Return the best configuration of the last finished round at or under each budget.

    Values are missing where nothing fits, and ``seen`` where nothing is trained.
    """
    columns = [
        *("trial", "average_bits", "bytes", "loss", "standard_error", "estimated_loss"),
        *("estimated_loss_std", "seen"),
    ]
    of_metrics = metric_columns(["metric", *more_metrics(record)])
    rows: list[dict[str, object]] = []
    for budget in budgets:
        try:
            best = best_under(record, budget)
        except InputError:
            rows.append({"budget": budget})
        else:
            row = best.to_frame().T
            own = metric_values(record, row).iloc[0]
            metrics = {name: own[name] for name in of_metrics}
            shown = with_objective(record, row).iloc[0]
            rows.append({"budget": budget, **{name: shown[name] for name in columns}, **metrics})
    frame = pd.DataFrame(rows, columns=["budget", *columns, *of_metrics])
    return frame if record.is_trained else frame.assign(seen=None)
