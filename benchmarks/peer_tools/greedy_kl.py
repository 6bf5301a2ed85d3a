"""exllamav3's way from measurements to a bitrate, reimplemented: greedy by KL per bit.

Its programs need CUDA. Facts are those of turboderp-org/exllamav3 at 4f8ad01
(``conversion/measure_model.py``, ``conversion/optimize_model.py``): all layers have the fewest
bits, one group at a time gets more, and the change of the KL to the unquantized model is measured
on the calibration text. The largest gain per bit is taken as long as it fits; a gain g counts as
g^0.69, and several steps of one group count by what the last adds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.peer_tools.inputs import read_inputs, write_allocations
from benchmarks.peer_tools.study import PeerStudy
from qsearch._arrays import Floats, Integers

BASE_BITS = 3
"""Bits that all layers have when a group is measured: with 2, no model is left to measure on."""

POWER = 0.69


def main(folder: Path, to: Path) -> None:
    """Write allocations of one measurement."""
    inputs = read_inputs(folder)
    tokens = sum(map(len, inputs.first_quarter))
    study = PeerStudy(Path(inputs.plan), (f"task.validation_tokens={tokens}",))
    space = study.space
    levels = [
        choice
        for choice, one in enumerate(space.choices.layer_configurations)
        if int(one["bits"]) >= BASE_BITS
    ]

    def divergence(index: Integers) -> float:
        return study.evaluate(space.decode(index)).metrics["kl"].value

    base = study.alike(levels[0])
    start = divergence(base)
    change = np.zeros((len(space.groups), len(levels)))
    for group in range(len(space.groups)):
        for level, choice in enumerate(levels[1:], start=1):
            one = base.copy()
            one[group] = choice
            change[group, level] = divergence(one) - start
    bits = space.bits_table[levels]
    found = {
        size: np.array(levels)[greedy(change, bits, space.group_share, size)]
        for size in inputs.sizes
    }
    write_allocations(
        to, {size: study.allocation(space.decode(index)) for size, index in found.items()}
    )


def greedy(change: Floats, bits: Floats, share: Floats, budget: float) -> Integers:
    """Return the level of each group (groups).

    Args:
        change: Of the KL, by group and level (groups × levels); zero at level 0.
        bits: Storage bits per weight by level (levels), rising.
        share: Share of all weights that each group has (groups).
        budget: Average bits that the levels may have.
    """
    value = np.where(change < 0, -(np.abs(change) ** POWER), change)
    level = np.zeros(len(change), dtype=np.int64)
    groups = np.arange(len(change))
    left = budget - bits[0]
    while True:
        gain = value - value[groups, level][:, None]
        cost = (bits[None, :] - bits[level][:, None]) * share[:, None]
        open_ = (cost > 0) & (cost <= left) & (gain < 0)
        if not open_.any():
            return level
        rate = np.where(open_, gain / np.where(open_, cost, 1.0), np.inf)
        group, step = np.unravel_index(int(rate.argmin()), rate.shape)
        left -= cost[group, step]
        level[group] = step


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
