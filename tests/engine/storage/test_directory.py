"""A study's directory: made, refused, and its rounds and measurements."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import DamagedFileError, InputError, QsearchError
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.directory import has_results, prepare_directory
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.round_state import RoundState, read_rounds, write_round
from qsearch.storage.study_record import RoundRecord

ROUND = RoundState(
    RoundRecord(
        1,
        (0, 1),
        0.5,
        1.0,
        2.0,
        3.0,
        (0.9, 0.8),
        Evaluation(0.3, 0.01, {"accuracy": MetricValue(0.9, 0.02)}, 1.5),
    ),
    (0, 2),
    5,
    {2: (0.7, 0.1)},
    {4: (0.8, 0.2)},
)
SECOND = dataclasses.replace(ROUND, record=dataclasses.replace(ROUND.record, round=2))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare_directory(tmp_path / "study")
    return tmp_path / "study"


def test_preparing_a_directory_leaves_only_its_state_folder(directory: Path) -> None:
    prepare_directory(directory)
    assert [path.name for path in directory.iterdir()] == ["state"]


def test_directory_whose_name_is_not_utf_8_is_refused_before_it_is_made(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"o\xff")
    with pytest.raises(InputError, match="its name is not UTF-8; give another --out"):
        prepare_directory(directory)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, QsearchError, "make room, then run the same command"),
        (errno.EROFS, InputError, "give another --out"),
        (errno.EACCES, InputError, "give another --out"),
    ],
)
def test_directory_that_cannot_be_made_is_refused(
    number: int,
    kind: type[Exception],
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the reason")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(QsearchError, match=f"the reason; {advice}") as caught:
        prepare_directory(tmp_path)
    assert type(caught.value) is kind


def test_a_directory_has_results_once_something_was_measured(directory: Path) -> None:
    (directory / "log.jsonl").touch()
    assert not has_results(directory)
    write_measurement(directory, "quantization_error", np.zeros((1, 1)))
    assert has_results(directory)


def test_measurement_under_another_name_is_damaged(directory: Path) -> None:
    write_measurement(directory, "another", np.zeros(2))
    path = directory / "state" / "sensitivity-2.safetensors"
    (directory / "state" / "another.safetensors").rename(path)
    with pytest.raises(DamagedFileError, match=r"sensitivity-2\.safetensors: damaged: "):
        read_measurement(directory, "sensitivity-2")


def test_missing_adapter_is_named(directory: Path) -> None:
    expected = r"adapter-1\.safetensors: is missing; run the study again, which makes it again"
    with pytest.raises(DamagedFileError, match=expected):
        read_adapter(directory, 1)


def test_round_with_impossible_trials_is_damaged(directory: Path) -> None:
    write_round(directory, dataclasses.replace(ROUND, trials=-1))
    with pytest.raises(DamagedFileError, match=r"round-1\.json: damaged: trials: "):
        read_rounds(directory)


def test_rounds_round_trip_in_order(directory: Path) -> None:
    assert read_rounds(directory) == []
    for state in (SECOND, ROUND):
        write_round(directory, state)
    assert read_rounds(directory) == [ROUND, SECOND]


def test_missing_round_before_another_is_named(directory: Path) -> None:
    write_round(directory, SECOND)
    with pytest.raises(DamagedFileError, match=r"round-1\.json: is missing; it cannot be made"):
        read_rounds(directory)
