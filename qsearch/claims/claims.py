"""What a study's last finished round supports: no measurable loss, and as good as uniform."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from qsearch.claims.comparison import Comparison, JointDifference
from qsearch.claims.paired_difference import PairedDifference
from qsearch.storage.study_record import UNIFORM, StudyRecord, row_configuration, selection_loss


@dataclass(frozen=True)
class Claim:
    """The smallest configuration that the study does not show to be worse than a model.

    Args:
        row: Of ``trials.parquet``.
        difference: Its loss less the model's, over the same examples, with an interval that holds
            for all compared configurations at once.
        reference_loss: The model's loss on them.
        compared: How many configurations were.
    """

    row: pd.Series
    difference: PairedDifference
    reference_loss: float
    compared: int

    @property
    def at_most(self) -> float:
        """By what share of its loss the model may be better: the interval's end, at least 0."""
        return max(self.difference.high, 0.0) / abs(self.reference_loss)


@dataclass(frozen=True)
class UniformClaim:
    """What the search gained over a baseline, which quantizes all layers alike.

    Args:
        name: Of the baseline, such as ``uniform 4 bits``.
        baseline: Its row of ``trials.parquet``.
        row: The smallest configuration of no greater selection loss that the study does not show to
            be worse; None if none is smaller than the baseline.
        difference: Its objective, such as the loss, less the baseline's, over the same examples,
            with an interval that holds for all smaller configurations at once.
        smaller: How many configurations are smaller than the baseline.
    """

    name: str
    baseline: pd.Series
    row: pd.Series | None = None
    difference: PairedDifference | None = None
    smaller: int = 0

    @property
    def saved(self) -> float:
        """The share of the baseline's bytes that is saved; of its bits where bytes are unknown."""
        if self.row is None:
            return 0.0
        size = "average_bits" if math.isnan(self.baseline["bytes"]) else "bytes"
        return 1 - float(self.row[size] / self.baseline[size])


def no_measurable_loss(
    record: StudyRecord, comparison: Comparison, tolerance: float | None = None
) -> Claim | None:
    """Return the smallest configuration that is not measurably above full precision.

    Full precision is the same adapter with no weight quantized. With a tolerance, a share of its
    loss, it is the smallest one whose whole interval lies within it. All that the round completed
    are compared, on the front or not. None if there is none, or differences are unknown.
    """
    full = record.rounds[-1].full_precision if record.rounds else None
    if full is None or not math.isfinite(full.loss) or full.loss == 0:
        return None
    rows = {int(row["trial"]): row for row in _by_size(record)}
    compared = comparison.jointly(rows)
    found = first_within(compared, None if tolerance is None else tolerance * abs(full.loss))
    if found is None:
        return None
    return Claim(rows[found.trial], found.jointly, full.loss, len(compared))


def first_within(
    compared: Iterable[JointDifference], limit: float | None = None
) -> JointDifference | None:
    """Return the first that is not measurably worse, or that is within a limit with its interval.

    It is chosen for its own difference, so only its joint interval says how far it may be off.
    """
    for one in compared:
        if one.alone.low <= 0 if limit is None else one.jointly.high <= limit:
            return one
    return None


def uniform_claims(record: StudyRecord, comparison: Comparison) -> list[UniformClaim]:
    """Return what is as good as each baseline of the last finished round, by rising size.

    There are none where it is not known what examples scored.
    """
    rows = list(_by_size(record))
    return [
        _as_good_as(name, baseline, rows, record, comparison)
        for name, baseline in baselines(record).items()
        if comparison.with_trial(int(baseline["trial"]), int(baseline["trial"])) is not None
    ]


def baselines(record: StudyRecord) -> dict[str, pd.Series]:
    """Return the baselines of the last finished round by name, by rising size.

    Of uniform configurations of one level, such as 4 bits, it is that of fewest average bits.
    """
    latest = record.latest
    found: dict[str, pd.Series] = {}
    for _, row in latest[latest["method"] == UNIFORM].sort_values("average_bits").iterrows():
        found.setdefault(_baseline_name(record, row), row)
    return found


def _as_good_as(
    name: str,
    baseline: pd.Series,
    rows: Sequence[pd.Series],
    record: StudyRecord,
    comparison: Comparison,
) -> UniformClaim:
    smaller = {
        int(row["trial"]): row for row in rows if row["average_bits"] < baseline["average_bits"]
    }
    compared = comparison.jointly(smaller, int(baseline["trial"]), record.objective)
    limit = _selection(baseline, record)
    found = first_within(one for one in compared if _selection(smaller[one.trial], record) <= limit)
    if found is None:
        return UniformClaim(name, baseline, smaller=len(smaller))
    return UniformClaim(name, baseline, smaller[found.trial], found.jointly, len(smaller))


def _baseline_name(record: StudyRecord, row: pd.Series) -> str:
    """Return what a uniform configuration is called: by its first knob, such as its bits."""
    knob = record.choices.knobs[0].name
    configuration = row_configuration(row)
    value = next(one[knob] for name, one in configuration.items() if name not in record.pinned)
    return f"uniform {value} bits" if knob == "bits" else f"uniform {knob} {value}"


def _by_size(record: StudyRecord) -> Iterator[pd.Series]:
    """Yield the completed rows of the last finished round, the smallest first.

    Of equal size, that of less selection loss comes first.
    """
    rows = record.latest.assign(selection=selection_loss(record.latest, record.objective))
    ordered = rows.dropna(subset="selection").sort_values(["average_bits", "selection"])
    for _, row in ordered.drop(columns="selection").iterrows():
        yield row


def _selection(row: pd.Series, record: StudyRecord) -> float:
    return float(selection_loss(row.to_frame().T, record.objective).iloc[0])
