"""qsearch's allocator alone: scores by Fisher information, and an integer program."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peer_tools.inputs import read_inputs, write_allocations
from benchmarks.peer_tools.study import PeerStudy
from qsearch.search.allocation import allocate


def main(folder: Path, to: Path) -> None:
    """Write allocations from scores of the unquantized model."""
    inputs = read_inputs(folder)
    study = PeerStudy(Path(inputs.plan))
    scores = study.scores()
    write_allocations(
        to,
        {
            size: study.allocation(study.space.decode(allocate(study.space, scores, size)))
            for size in inputs.sizes
        },
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
