"""Evaluating configurations so that one failure does not end a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qsearch.configuration import Configuration
from qsearch.evaluation import Evaluation

Evaluate = Callable[[Sequence[Configuration]], Sequence[Evaluation]]


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be evaluated.

    Args:
        reason: One line for the user.
    """

    reason: str


def evaluate_serially(
    evaluate: Evaluate, configurations: Sequence[Configuration]
) -> Iterator[Evaluation | Failure]:
    """Evaluate configurations one by one, in order, yielding each result as it is known.

    A loss or metric that is not finite, and any exception, is that configuration's failure.

    Args:
        evaluate: Evaluates several.
        configurations: What to evaluate.
    """
    for configuration in configurations:
        try:
            (evaluation,) = evaluate([configuration])
        except Exception as error:
            yield Failure(" ".join(f"{type(error).__name__}: {error}".split()))
            continue
        figures = (evaluation.loss, evaluation.standard_error, evaluation.metric)
        if all(math.isfinite(figure) for figure in figures):
            yield evaluation
        else:
            yield Failure(
                f"not finite: loss {evaluation.loss}, standard error"
                f" {evaluation.standard_error}, metric {evaluation.metric}"
            )
