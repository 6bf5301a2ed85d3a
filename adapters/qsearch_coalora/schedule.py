"""What training does at which step: seeds, the order of configurations, the learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from qsearch.configuration import Configuration


def seeds(seed: int, round: int) -> tuple[int, int, int]:
    """Return a round's seeds of data, configurations and dropout, from the study's."""
    first, second, third = np.random.SeedSequence([seed, round]).generate_state(3)
    return int(first), int(second), int(third)


def shuffled_passes(
    configurations: Sequence[Configuration], generator: torch.Generator
) -> Iterator[Configuration]:
    """Yield configurations without end: each once in a pass, every pass in another order."""
    while True:
        for index in torch.randperm(len(configurations), generator=generator).tolist():
            yield configurations[index]


def ramp(step: int, total: int, warmup: int) -> float:
    """Return the learning rate as a share of its peak: up during the warm-up, then down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (total - step) / max(total - warmup, 1)
