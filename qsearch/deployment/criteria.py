"""What a configuration is picked by: budgets, limits of metrics, or a share of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch.deployment.budgets import Budget, chosen_budgets
from qsearch.deployment.metric_limits import MetricLimit, best_with_limits, parse_limits
from qsearch.deployment.picking import claim_within, parse_share
from qsearch.errors import InputError
from qsearch.storage.study_record import StudyRecord


@dataclass(frozen=True)
class Criteria:
    """What one configuration is picked by: a budget, limits of metrics or both, or a share.

    Args:
        within: Share of the loss in full precision that its loss may be above it.
        tokens_per_second: What it generates at least, a prediction; also next to a budget.
    """

    budget: Budget | None = None
    limits: tuple[MetricLimit, ...] = ()
    within: float | None = None
    tokens_per_second: float | None = None

    @property
    def budget_bytes(self) -> float | None:
        """Most bytes of weight files, if they are what is budgeted."""
        budget = self.budget
        return budget.limit if budget is not None and budget.kind == "bytes" else None

    def row(self, record: StudyRecord, directory: Path) -> pd.Series:
        """Return the row of the last finished round that is picked.

        Raises:
            InputError: If no configuration fits, or the study does not know what was asked for.
        """
        if self.within is not None:
            return claim_within(directory, record, self.within).row
        return best_with_limits(record, directory, self.budget, self.limits, self.tokens_per_second)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; None for a budget or share that was not given."""
        budget = self.budget
        return {
            "budget": budget
            and {"kind": budget.kind, "limit": budget.limit, "tokens": budget.tokens},
            "limits": [
                {"metric": limit.metric, "side": limit.side, "value": limit.value}
                for limit in self.limits
            ],
            "within": self.within,
            "tokens_per_second": self.tokens_per_second,
        }


def chosen_criteria(
    bits: float | None = None,
    nbytes: str | None = None,
    memory: str | None = None,
    tokens: int | None = None,
    trial: int | None = None,
    max_kl: float | None = None,
    min_accuracy: float | None = None,
    maxima: Sequence[str] | None = None,
    minima: Sequence[str] | None = None,
    within: str | None = None,
    sweep: str | None = None,
    tokens_per_second: float | None = None,
) -> list[Criteria]:
    """Return what a command's options pick by; several where a sweep has several budgets."""
    limits = parse_limits(maxima or (), minima or (), max_kl, min_accuracy)
    options = (bits, nbytes, memory, tokens, trial, sweep)
    has_budget = any(option is not None for option in options)
    if within is not None:
        if has_budget or limits or tokens_per_second is not None:
            raise InputError("--within picks by the loss; leave budgets and limits out")
        return [Criteria(within=parse_share(within))]
    if (limits or tokens_per_second is not None) and not has_budget:
        return [Criteria(limits=limits, tokens_per_second=tokens_per_second)]
    budgets = chosen_budgets(*options)
    return [Criteria(budget, limits, tokens_per_second=tokens_per_second) for budget in budgets]
