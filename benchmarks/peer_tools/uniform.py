"""The same bits for all layers: the most that fit."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peer_tools.inputs import read_inputs, write_allocations
from benchmarks.peer_tools.study import PeerStudy


def main(folder: Path, to: Path) -> None:
    """Write allocations."""
    inputs = read_inputs(folder)
    paths = PeerStudy(Path(inputs.plan)).paths.values()
    write_allocations(
        to,
        {
            size: dict.fromkeys(paths, max(b for b in inputs.bits if b + inputs.scale_bits <= size))
            for size in inputs.sizes
        },
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
