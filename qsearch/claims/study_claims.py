"""All claims and warnings of a study's last finished round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qsearch.claims.claims import Claim, UniformClaim, no_measurable_loss, uniform_claims
from qsearch.claims.comparison import Comparison
from qsearch.claims.health import health_warnings
from qsearch.storage.study_record import StudyRecord


@dataclass(frozen=True)
class Claims:
    """What the last finished round of a study supports, and what limits it."""

    no_loss: Claim | None = None
    uniform: tuple[UniformClaim, ...] = ()
    warnings: tuple[str, ...] = ()


NO_CLAIMS = Claims()


def study_claims(directory: Path, record: StudyRecord) -> Claims:
    """Return what a study supports, from what it kept of each example."""
    comparison = Comparison(directory, record)
    claim = no_measurable_loss(record, comparison)
    return Claims(
        claim,
        tuple(uniform_claims(record, comparison)),
        health_warnings(record, comparison, claim),
    )
