"""Which examples a split has: random subsets, held-out ones, and enough of them."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Integers
from qsearch.errors import InputError

MIN_EXAMPLES = 2
"""Examples that a standard error needs."""

_SUBSET_SEED, _HOLD_OUT_SEED = 0, 1


def subset(count: int, limit: int) -> Integers:
    """Return at most ``limit`` of ``count`` positions of examples: a fixed random choice."""
    return np.sort(np.random.default_rng(_SUBSET_SEED).permutation(count)[:limit])


def hold_out(count: int, held: int, unit: str) -> tuple[Integers, Integers]:
    """Return which training examples are trained on, and which are held out: a fixed random choice.

    Raises:
        InputError: If none would be left to train on.
    """
    if held >= count:
        raise InputError(
            f"trainer.early_stopping.examples {held} must be below the {count} {unit} of the"
            " training data"
        )
    order = np.random.default_rng(_HOLD_OUT_SEED).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def require_examples(split: str, count: int, unit: str) -> None:
    """Raise InputError unless an evaluation split has examples enough for a standard error."""
    if count < MIN_EXAMPLES:
        raise InputError(
            f"the {split} data has {count} {unit}; an evaluation needs at least {MIN_EXAMPLES}"
            " for its standard error"
        )
