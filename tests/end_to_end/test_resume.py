"""A study that is killed, on the real MiniLM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pandas.testing import assert_frame_equal

from benchmarks.operations_kills import done_again
from tests.end_to_end.conftest import run, small_study
from tests.engine.fake_study import results

DYING = Path(__file__).with_name("dying_command.py")
DEATHS = (
    ("training", 2),  # After two steps of its training.
    ("evaluated", 3),  # While it evaluates the set.
    ("searching", 1),
    ("round-1.json", 1),  # While it saves the round.
    ("report.html", 1),  # While it writes the report.
)
"""What kills the study: an event, or a file that is about to be in its place; how often it came."""


def test_a_killed_study_ends_as_if_it_never_was(study: Path, tmp_path: Path) -> None:
    """It kills itself by SIGKILL, each time later."""
    directory = tmp_path / "killed"
    for what, count in DEATHS:
        python, _, _, *arguments = small_study(directory)
        assert python == sys.executable
        run([python, str(DYING), what, str(count), *arguments], expect=-signal.SIGKILL)
    run(small_study(directory))
    assert_frame_equal(results(directory), results(study), check_exact=True)
    assert done_again(directory) == 0
    assert (directory / "report.html").is_file()
    assert [path.name for path in directory.rglob(".*")] == []
