"""How the learning rate goes over a round's steps."""

from __future__ import annotations

import math

from qsearch_coalora.settings.options import Schedule


def rate_share(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    """Return the learning rate as a share of its peak: up during the warm-up, then as scheduled.

    Steps count from 0; the warm-up takes half of their total at most.
    """
    warmup = min(warmup, total // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0
