"""A study's ``failures`` section: how many evaluations may fail, and how often each is tried."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from qsearch.spec.sections import Number


class FailuresSpec(BaseModel):
    """How often an evaluation is tried, how long it may take, and what share of a round may fail.

    Lost workers do not count as attempts: their evaluations are repeated in any case. The time is
    that of one evaluation, with the training that some methods do with it. Beyond the rate the
    study stops, and the same command retries that round's failures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: int = Field(strict=True, default=0, ge=0)
    timeout_seconds: Number | None = Field(default=None, gt=0, le=1e7, allow_inf_nan=False)
    rate: Number = Field(default=0.5, ge=0, le=1, allow_inf_nan=False)

    def tolerates(self, failed: int, planned: int) -> bool:
        """Return whether a round may continue with some of all its planned evaluations failed.

        Those still to come count as planned, so that the first failures do not decide for all.
        """
        return failed <= self.rate * planned + 1e-9  # 0.29 of 100 is 28.999… in floating point.
