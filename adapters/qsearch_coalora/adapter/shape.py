"""What a method adds to plain LoRA."""

from __future__ import annotations

from dataclasses import dataclass

from qsearch_coalora.settings.theta import ThetaOptions


@dataclass(frozen=True)
class AdapterShape:
    """What is added to plain LoRA.

    Args:
        theta: Shape of θ, or None without it.
        theta_rate: Peak rate for θ; 0 leaves it as it is.
        theta_start: Share of round 1's steps that go by before θ is used and trained.
        fixed_rank: How much of the rank holds residual factors.
        rows_rate: Peak rate for what these factors become by training, each layer configuration's
            by itself; None leaves them as they are.
    """

    theta: ThetaOptions | None = None
    theta_rate: float = 0.0
    theta_start: float = 0.0
    fixed_rank: int = 0
    rows_rate: float | None = None


PLAIN_LORA = AdapterShape()
