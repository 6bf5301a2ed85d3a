"""What limits the results of a study: warnings that stand before any claim."""

from __future__ import annotations

import math

import numpy as np

from qsearch.claims.claims import Claim
from qsearch.claims.comparison import Comparison
from qsearch.storage.study_record import StudyRecord

_NEAR_CHANCE = 0.9
"""Share of the loss by chance above which a model knows little."""

_STILL_FALLING = 0.02
"""Fall of the training loss over the last half of a round, as its share, that counts as going."""

_ROUGH = 0.05
"""Share of the loss that the interval of a claim may leave open."""

_SURE = 4.0
"""Standard errors that count for the least of all losses, which is in part sampling noise."""

_LEAST_STEPS = 8

_DRIFT = 0.01
"""KL (nats) of an adapter alone that is worth telling: more than 8-bit weights change."""


def health_warnings(
    record: StudyRecord, comparison: Comparison, claim: Claim | None
) -> tuple[str, ...]:
    """Return sentences on what the last finished round cannot say; none if it is well."""
    warnings = [
        _chance(record),
        _convergence(record),
        _precision(claim),
        _reference(record, comparison),
        _drift(record),
    ]
    return tuple(text for text in warnings if text)


def _chance(record: StudyRecord) -> str:
    """Return whether the model without quantization does hardly better than guessing."""
    full = record.rounds[-1].full_precision if record.rounds else None
    if (
        full is None
        or record.chance_loss is None
        or not full.loss > _NEAR_CHANCE * record.chance_loss
    ):
        return ""
    return (
        f"without quantization the loss is {full.loss:.4f} nats, and guessing gives"
        f" {record.chance_loss:.4f}: the model has hardly learnt the task, so that little can be"
        " lost by quantizing it"
    )


def _convergence(record: StudyRecord) -> str:
    """Return whether the training loss was still falling when the last training ended."""
    # Of methods with an adapter for each configuration, losses are of many trainings in turn;
    # those have no full precision.
    trained = [
        entry
        for entry in record.rounds
        if len(entry.train_losses) >= _LEAST_STEPS and entry.full_precision is not None
    ]
    if not trained:
        return ""
    losses = np.array(trained[-1].train_losses)
    before, after = np.array_split(losses[len(losses) // 2 :], 2)
    if not (np.isfinite(before).all() and np.isfinite(after).all()) or before.mean() <= 0:
        return ""
    error = math.hypot(
        *(float(part.std(ddof=1)) / math.sqrt(len(part)) for part in (before, after))
    )
    fall = float(before.mean() - after.mean())
    if fall <= 2 * error or fall <= _STILL_FALLING * before.mean():
        return ""
    return (
        f"training has not converged: in round {trained[-1].round} its loss fell from"
        f" {before.mean():.4f} to {after.mean():.4f} over the last half of the steps; train longer"
        " before comparing methods"
    )


def _precision(claim: Claim | None) -> str:
    """Return whether the examples are too few for the claim of no measurable loss."""
    if claim is None or claim.at_most <= _ROUGH:
        return ""
    return (
        f"{claim.difference.examples} examples are few: a loss up to {100 * claim.at_most:.0f} %"
        " higher would not be noticed"
    )


def _reference(record: StudyRecord, comparison: Comparison) -> str:
    """Return whether quantized configurations are measurably better than full precision."""
    latest = record.latest.dropna(subset="loss")
    if latest.empty:
        return ""
    least = latest.sort_values("loss").iloc[0]
    difference = comparison.with_full_precision(int(least["trial"]))
    if difference is None or not difference.difference < -_SURE * difference.standard_error:
        return ""
    return (
        f"trial {int(least['trial'])} is measurably better than full precision"
        f" ({difference.difference:+.4f} nats), so that full precision under this study's adapter"
        " is not the best that this model can do"
    )


def _drift(record: StudyRecord) -> str:
    """Return how far training has moved the model from the original, with nothing quantized."""
    full = record.rounds[-1].full_precision if record.rounds else None
    kl = None if full is None else full.metrics.get("kl")
    if kl is None or not kl.value > _DRIFT:
        return ""
    return (
        f"with nothing quantized, the trained adapter has a KL of {kl.value:.4f} nats to the model"
        " as it was loaded: so much of each configuration's kl may be what training has taught"
    )
