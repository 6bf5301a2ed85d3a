"""A study on the real MiniLM that is killed, next to the same study in one other process."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from benchmarks.operations_kills import done_again
from benchmarks.reproducibility import tensors_of
from qsearch.storage.study_record import RoundRecord, read_study
from tests.end_to_end.conftest import run, small_study
from tests.engine.fake_study import results

DYING = Path(__file__).with_name("dying_command.py")
DEATHS = (
    ("training", 2),  # After two steps of its training.
    ("round-1.json", 1),  # While it saves the round.
    ("report.html", 1),  # While it writes the report.
)
"""What kills the study: an event, or a file that is about to be in its place; how often it came."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the small study, which killed itself by SIGKILL, each time later."""
    directory = tmp_path_factory.mktemp("killed") / "run"
    for what, count in DEATHS:
        python, _, _, *arguments = small_study(directory)
        assert python == sys.executable
        run([python, str(DYING), what, str(count), *arguments], expect=-signal.SIGKILL)
    run(small_study(directory))
    return directory


def rounds_of(directory: Path) -> list[RoundRecord]:
    """The study's rounds but for the time that they took."""
    times = {"train_seconds": 0.0, "evaluate_seconds": 0.0, "search_seconds": 0.0}
    rounds = []
    for entry in read_study(directory).rounds:
        assert entry.full_precision is not None
        evaluation = replace(entry.full_precision, seconds=0.0)
        rounds.append(replace(entry, full_precision=evaluation, **times))
    return rounds


def test_a_killed_study_has_the_same_trials(study: Path, killed: Path) -> None:
    assert_frame_equal(results(killed), results(study), check_exact=True)


def test_a_killed_study_has_the_same_sets_hypervolumes_and_training_losses(
    study: Path, killed: Path
) -> None:
    assert rounds_of(killed) == rounds_of(study)


def test_a_killed_study_has_the_same_tensors_bit_for_bit(study: Path, killed: Path) -> None:
    first, second = tensors_of(study), tensors_of(killed)
    assert {name.partition(" ")[0] for name in first} >= {
        "adapter-1.safetensors",
        "adapter-2.safetensors",
        "quantization_error.safetensors",
        "sensitivity-2.safetensors",
    }
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_killed_study_does_nothing_twice_and_leaves_no_other_files(killed: Path) -> None:
    assert done_again(killed) == 0
    assert (killed / "report.html").is_file()
    assert [path.name for path in killed.rglob(".*")] == []
