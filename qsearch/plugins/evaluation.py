"""What training and evaluation report: plain numbers, free of any framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


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
class Evaluation:
    """What one configuration scored on one split: mean loss (nats) and metric, and wall time."""

    loss: float
    standard_error: float
    metric: float
    metric_standard_error: float
    seconds: float


@dataclass(frozen=True)
class TrainReport:
    """What one round of training did: optimizer steps, wall time, and the loss of each step (nats).

    Details are further values for the log, such as the cache's hit rate.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)
