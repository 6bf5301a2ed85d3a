"""qsearch: one study, whose budgets are the sizes; of each, the best that it evaluated."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peer_tools.inputs import read_inputs, write_allocations
from benchmarks.peer_tools.study import PeerStudy
from qsearch.deployment.selection import best_under
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_spec


def main(folder: Path, to: Path) -> None:
    """Run the study, and write its picks."""
    inputs = read_inputs(folder)
    study = PeerStudy(Path(inputs.plan))
    run_spec(study.spec, folder / "study")
    record = read_study(folder / "study")
    write_allocations(
        to,
        {
            size: study.allocation(row_configuration(best_under(record, size)))
            for size in inputs.sizes
        },
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
