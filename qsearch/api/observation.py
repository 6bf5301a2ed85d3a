"""What an objective returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index

from qsearch.errors import InputError, ObjectiveError
from qsearch.execution.executor import MAX_VALUE
from qsearch.plugins.trial_columns import require_names


@dataclass(frozen=True)
class Observation:
    """A loss with what else is known of it; an objective may return a plain number instead.

    Args:
        loss: To be lowered.
        standard_error: Of the loss; 0 if it is exact, or not known.
        examples: How many independent predictions the loss is a mean over, the same for all
            configurations. With it, the search models sampling noise and gives estimated losses;
            the loss must be a mean negative log-likelihood in nats, such as cross-entropy.
        metrics: Further values by name, such as ``{"accuracy": 0.81}``.

    >>> import qsearch
    >>> qsearch.Observation(0.52, standard_error=0.01, metrics={"accuracy": 0.81}).loss
    0.52
    """

    loss: float
    standard_error: float = 0.0
    examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def as_observation(value: object) -> Observation:
    """Return what an objective returned, with plain Python numbers.

    Raises:
        ObjectiveError: If it is neither a finite number nor an observation of such.
    """
    given = value if isinstance(value, Observation) else Observation(_number("a loss", value))
    loss, error = _number("a loss", given.loss), _number("a standard error", given.standard_error)
    if error < 0:
        raise ObjectiveError(f"a standard error is 0 or more, not {error}")
    examples = given.examples
    if examples is not None:
        try:
            examples = 0 if isinstance(examples, bool) else index(examples)
        except TypeError:
            examples = 0
        if examples < 1:
            raise ObjectiveError(
                f"examples is a number of examples, 1 or more, not {given.examples!r}"
            )
    if not isinstance(given.metrics, Mapping) or not all(isinstance(k, str) for k in given.metrics):
        raise ObjectiveError(f"metrics is a mapping of name to number, not {given.metrics!r}")
    metrics = {name: _number(f"metric {name!r}", own) for name, own in given.metrics.items()}
    try:
        require_names(list(metrics), "metrics")
    except InputError as refused:
        raise ObjectiveError(str(refused)) from None
    return Observation(loss, error, examples, metrics)


def _number(what: str, value: object) -> float:
    """Return a number of Python, NumPy or PyTorch as a float; a string is none."""
    kind = type(value).__name__
    if isinstance(value, str | bytes | bool) or value is None:
        raise ObjectiveError(f"{what} is a number, not {value!r} ({kind})")
    try:
        number = float(value)  # type: ignore[arg-type]  # What cannot be one raises.
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ObjectiveError(f"{what} is a number, not a value of type {kind}: {error}") from error
    if not math.isfinite(number) or abs(number) > MAX_VALUE:
        raise ObjectiveError(f"{what} must be finite, not {number}")
    return number
