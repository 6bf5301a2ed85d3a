"""The real study, killed by SIGKILL at random moments of all its phases.

``make bench-operations`` kills the whole quickstart at 20.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pandas.testing import assert_frame_equal

from benchmarks.operations_kills import KILLS, done_again, draw_moments, kill_at
from tests.end_to_end.conftest import VARIABLES, results, run, small_study
from tests.forking_server import start_fork

FEWER = dict.fromkeys(KILLS, 1)
"""Moments by phase: each costs the start of a study, which takes longer than the rest of it."""


def test_a_study_killed_at_random_moments_ends_as_if_it_never_was(
    study: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "killed"
    moments = draw_moments(study, np.random.default_rng(6), FEWER)
    kills = kill_at(moments, small_study(directory), directory, VARIABLES, start_fork)
    assert {moment.phase for moment in moments} == set(KILLS)
    assert len(kills) == sum(FEWER.values())
    run(small_study(directory))
    assert_frame_equal(results(directory), results(study), check_exact=True)
    assert done_again(directory) == 0
    assert (directory / "report.html").is_file()
    assert [path.name for path in directory.rglob(".*")] == []
