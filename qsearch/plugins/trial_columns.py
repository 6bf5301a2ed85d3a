"""The columns of a study's table of trials: fixed ones, and those of the task's metrics."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.errors import InputError

STANDARD_ERROR = "_standard_error"
"""What the column of a metric's standard error ends with, after the metric's name."""

TRIAL_COLUMNS = (
    "trial",
    "round",
    "method",
    "average_bits",
    "bytes",
    "loss",
    "standard_error",
    "seconds",
    "seen",
    "segment",
    "on_front",
    "configuration",
    "status",
    "reason",
    "estimated_loss",
    "estimated_loss_std",
    "predicted_loss",
    "predicted_loss_std",
)
"""Columns of ``trials.parquet``, one row per configuration and round; those of metrics follow.

``status`` is ``completed`` or ``failed``; a failed row has a ``reason``, NaN values, and is on
no front. ``seen`` says whether the configuration was in a training set up to that round.
``on_front`` says whether it is on the segmented front of that round.

``bytes`` are those of the weight files of the format ``packed``, with all that ships; NaN where the
trainer does not say how large its model is.

``loss`` is what the validation examples gave, sampling noise included; ``estimated_loss`` is the
surrogate's posterior mean of the configuration's loss on the whole task, given all losses of the
round, and ``estimated_loss_std`` its standard deviation. Both are NaN until the round ends, and in
a study that does not model sampling noise (``search.target: examples``). Configurations are chosen
by :func:`~qsearch.storage.study_record.selection_loss`.

``predicted_loss`` is what the round's search predicted that ``loss`` would be, from the losses of
the round's set, before it evaluated any candidate; ``predicted_loss_std`` is the standard
deviation of that prediction, with sampling noise and the noise of single losses. Both are NaN but
for candidates of that very round.
"""


def metric_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of metrics: of each its value, then its standard error."""
    return tuple(column for name in names for column in (name, f"{name}{STANDARD_ERROR}"))


def require_names(names: Sequence[str], source: str) -> None:
    """Refuse metrics without a name, of equal names, or of names that tables have already.

    Raises:
        InputError: The message begins with the source.
    """
    columns = list(TRIAL_COLUMNS)
    for name in names:
        if not name or {name, f"{name}{STANDARD_ERROR}"} & set(columns):
            raise InputError(f"{source}: a metric may not be called {name!r}")
        columns += metric_columns([name])
