"""What training and evaluation report: plain numbers, free of any framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A task's measure of quality, such as ``accuracy``, and which of its values are better.

    >>> import qsearch
    >>> qsearch.Metric("accuracy", better="higher").name
    'accuracy'
    """

    name: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricValue:
    """A metric over all examples, and its standard error: NaN if unknown, as of a percentile."""

    value: float
    standard_error: float = math.nan


@dataclass(frozen=True)
class ExampleScores:
    """What each example of a split scored, in the split's own order, the same for all models.

    Args:
        losses: Mean loss of each example (n), nats.
        weights: What each counts in the mean loss (n), such as its predicted tokens.
        metrics: Values (n) of the metrics that are weighted means of them; NaN where an example has
            none.
    """

    losses: tuple[float, ...]
    weights: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What one configuration scored on one split: mean loss (nats), metrics, and wall time.

    Args:
        metrics: Those of the task's metrics that are known, the main one always.
        examples: What each example scored, if the trainer says; a study keeps it in files of its
            own.
    """

    loss: float
    standard_error: float
    metrics: Mapping[str, MetricValue]
    seconds: float
    examples: ExampleScores | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that :func:`dataclasses.asdict` made values of, also by JSON."""
        metrics = {name: MetricValue(**value) for name, value in values["metrics"].items()}
        examples = None
        if (own := values["examples"]) is not None:
            by_name = {name: tuple(column) for name, column in own["metrics"].items()}
            examples = ExampleScores(tuple(own["losses"]), tuple(own["weights"]), by_name)
        return cls(**{**values, "metrics": metrics, "examples": examples})

    def value_of(self, objective: str) -> float:
        """Return the loss, or a metric by its name."""
        return self.loss if objective == "loss" else self.metrics[objective].value

    def without_examples(self) -> Evaluation:
        """Return it as tables and the database have it."""
        return replace(self, examples=None)


@dataclass(frozen=True)
class ReferenceScores:
    """What the examples scored under the model that evaluations are compared with.

    ``compared`` is how many of them are compared, the first: its outputs are kept as far as they
    fit.
    """

    examples: ExampleScores
    compared: int


@dataclass(frozen=True)
class TrainReport:
    """What one round of training did: optimizer steps, wall time, and the loss of each step (nats).

    No steps in a later round than the first mean that all evaluations stay what they were, and they
    are not repeated. Details are further values for the log, such as the cache's hit rate.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)
