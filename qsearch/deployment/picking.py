"""The best configuration within a budget, with what it takes and how sure its loss is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch._sizes import readable_size
from qsearch._text import with_error
from qsearch.claims.claims import Claim, no_measurable_loss
from qsearch.claims.comparison import Comparison
from qsearch.claims.paired_difference import PairedDifference
from qsearch.claims.sentences import difference_text, interval_text
from qsearch.deployment.budgets import Budget
from qsearch.deployment.metric_limits import MetricLimit, best_with_limits, keeping
from qsearch.deployment.predicted_speed import fast_enough, predicted_speed, speed_text
from qsearch.deployment.selection import best_among, completed_rows, smallest_alike
from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_footprint
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration, row_values


@dataclass(frozen=True)
class Picked:
    """A picked configuration, and what is known of it by name; None where it is not known."""

    configuration: Configuration
    knobs: tuple[str, ...]
    values: Mapping[str, Any]
    compared: int = 1
    """For how many configurations at once the interval of its difference holds."""

    def lines(self) -> list[tuple[str, str]]:
        """Return what is known of it as labels and rounded values."""
        of = self.values
        trial = str(of["trial"])
        if of["seen"] is not None:
            seen = "seen" if of["seen"] else "unseen"
            trial += f", evaluated in round {of['round']}, {seen} in training"
        lines = [
            ("trial", trial),
            ("average bits", f"{of['average_bits']:.4f}"),
        ]
        if of["average_bits_with_adapter"] != of["average_bits"]:
            lines.append(("with adapter", f"{of['average_bits_with_adapter']:.4f} average bits"))
        if of["file_bytes"] is not None:
            lines.append(("weight files", f"{readable_size(of['file_bytes'])} as packed"))
        if of["memory_bytes"] is not None:
            running = f"{readable_size(of['memory_bytes'])} for {of['memory_tokens']} tokens"
            lines.append(("memory", f"{running}, an estimate"))
        if (speed := of["speed"]) is not None:
            lines.append(("speed", speed_text(speed)))
        if of["estimated_loss"] is not None:
            estimated = with_error(of["estimated_loss"], of["estimated_loss_std"])
            lines.append(("estimated loss", estimated))
        lines.append(("loss", with_error(of["loss"], of["standard_error"])))
        for name, metric in of["metrics"].items():
            lines.append((name, with_error(metric["value"], metric["standard_error"])))
        if of["difference"] is not None:
            text = difference_text(PairedDifference(**of["difference"]))
            interval = interval_text(self.compared)
            lines.append(("difference", f"{text} from full precision ({interval})"))
        smallest = of["smallest_alike"]
        if smallest["trial"] != of["trial"]:
            lines.append(
                (
                    "may be as good",
                    f"trial {smallest['trial']} with {smallest['average_bits']:.4f} average bits:"
                    " its loss is within the uncertainty",
                )
            )
        return lines


def pick_configuration(
    directory: Path,
    budget: Budget | None,
    limits: Sequence[MetricLimit] = (),
    tokens_per_second: float | None = None,
) -> Picked:
    """Return the configuration of least loss within a budget that keeps limits of metrics.

    Without a budget it is the smallest that keeps them; see :func:`best_with_limits`. Among
    configurations of equal estimated loss, it is the one of fewer average bits, then the one of
    less observed loss.
    """
    record = read_study(directory)
    row = best_with_limits(record, directory, budget, limits, tokens_per_second)
    kept = record
    if tokens_per_second is not None:
        kept = fast_enough(record, directory, tokens_per_second)
    alike = smallest_alike(keeping(kept, limits), row)
    return _picked(directory, record, row, alike, budget)


def pick_within(directory: Path, tolerance: float) -> Picked:
    """Return the configuration of :func:`claim_within`."""
    record = read_study(directory)
    claim = claim_within(directory, record, tolerance)
    # It is the smallest within the share, so that a smaller one is not as good to the user.
    return _picked(directory, record, claim.row, claim.row, None, claim)


def claim_within(directory: Path, record: StudyRecord, tolerance: float) -> Claim:
    """Return the smallest configuration whose loss is within a share of full precision's.

    The whole 95 % interval of the paired difference lies within it; intervals hold for all
    configurations of the round at once.

    Raises:
        InputError: If there is none, or differences are unknown.
    """
    latest = completed_rows(record)
    comparison = Comparison(directory, record)
    claim = no_measurable_loss(record, comparison, tolerance)
    if claim is not None:
        return claim
    full = record.rounds[-1].full_precision if record.rounds else None
    least = best_among(latest, record.objective)
    compared = comparison.jointly(latest["trial"].astype(int))
    difference = next((one.jointly for one in compared if one.trial == least["trial"]), None)
    if full is None or difference is None:
        raise InputError(
            f"--within: {directory} does not say what each example lost without quantization; use a"
            " budget"
        )
    interval = interval_text(len(compared))
    raise InputError(
        f"--within {100 * tolerance:g}%: no configuration's {interval} is within"
        f" {tolerance * abs(full.loss):.4f} nats of full precision; trial {int(least['trial'])} of"
        f" least loss differs by {difference_text(difference)} over {difference.examples} examples"
    )


def parse_share(text: str) -> float:
    """Read a share such as ``1%`` or ``0.01``."""
    number, percent = text.strip(), text.strip().endswith("%")
    try:
        value = float(number.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise InputError(f"--within {text!r}: give a share of the loss, such as 1% or 0.01")
    return value


def _picked(
    directory: Path,
    record: StudyRecord,
    row: pd.Series,
    alike: pd.Series,
    budget: Budget | None,
    claim: Claim | None = None,
) -> Picked:
    """Return a row with what is known of it, and the smallest one that may be as good.

    A claim, by which it was picked, has the interval of its difference.
    """
    difference = Comparison(directory, record).with_full_precision(int(row["trial"]))
    if claim is not None:
        difference = claim.difference
    footprint = read_footprint(directory)
    values: dict[str, Any] = {
        **row_values(record, row),
        "average_bits_with_adapter": float(row["average_bits"]),
        "memory_bytes": None,
        "memory_tokens": None,
        "speed": predicted_speed(record, directory, row_configuration(row)),
        "difference": None if difference is None else asdict(difference),
        "smallest_alike": {
            "trial": int(alike["trial"]),
            "average_bits": float(alike["average_bits"]),
            "loss": float(alike["loss"]),
        },
    }
    if footprint is not None:
        bits = footprint.average_bits_with_adapter(values["average_bits"])
        values["average_bits_with_adapter"] = bits
        if (running := footprint.running) is not None:
            tokens = running.tokens if budget is None or budget.tokens is None else budget.tokens
            memory = values["file_bytes"] + running.nbytes(tokens)
            values |= {"memory_bytes": memory, "memory_tokens": tokens}
    compared = 1 if claim is None else claim.compared
    return Picked(row_configuration(row), record.choices.names, values, compared)
