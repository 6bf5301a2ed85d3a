"""What training and evaluation report: plain figures, free of any framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A task's figure of merit.

    Args:
        name: Such as ``accuracy`` or ``perplexity``.
        better: Whether higher or lower values are better.
    """

    name: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Evaluation:
    """What one configuration scored on one split.

    Args:
        loss: Mean loss over the split, nats.
        standard_error: Standard error of that mean.
        metric: The task metric.
        metric_standard_error: Its standard error.
        seconds: Wall time of the evaluation.
    """

    loss: float
    standard_error: float
    metric: float
    metric_standard_error: float
    seconds: float


@dataclass(frozen=True)
class TrainReport:
    """What one round of training did.

    Args:
        steps: Optimizer steps taken.
        seconds: Wall time.
        losses: Training loss of each step, nats.
        details: Further figures for the log, such as the cache's hit rate.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    details: Mapping[str, float] = field(default_factory=dict)
