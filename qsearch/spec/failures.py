"""What a study makes of evaluations that fail: its limits, as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FailuresSpec(BaseModel):
    """How often an evaluation is tried, how long it may take, how many may fail.

    Args:
        retries: Further attempts at an evaluation that failed. Not counted are those whose worker
            died: they are evaluated again in any case.
        timeout_seconds: Most wall time of one evaluation, the training that some methods do with
            it included; None sets no limit.
        rate: Greatest share of a round's evaluations that may fail. Beyond it the study stops,
            and the same command tries that round's failures again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: int = Field(strict=True, default=0, ge=0)
    timeout_seconds: float | None = Field(default=None, gt=0, le=1e7, allow_inf_nan=False)
    rate: float = Field(default=0.5, ge=0, le=1, allow_inf_nan=False)

    @field_validator("timeout_seconds", "rate", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        # Numbers are not read strictly, since YAML reads 1e-3 as text; true is no number.
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    def tolerates(self, failed: int, planned: int) -> bool:
        """Return whether a round may go on.

        Args:
            failed: Evaluations of the round that failed.
            planned: All that it makes, those still to come included, so that the first ones to
                fail do not decide for all.
        """
        return failed <= self.rate * planned + 1e-9  # .29 of 100 is 28.999… in floating point.
