"""The study directory and Ax's database."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import DamagedFileError, InputError, QsearchError
from qsearch.experiment.client import open_client
from qsearch.experiment.node import QsearchNode
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.directory import has_results, prepare_directory
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.round_state import RoundState, read_rounds, write_round
from qsearch.storage.study_record import RoundRecord
from tests.engine.support import INTEGER, make_space

SPACE = make_space(1, INTEGER)
ROUND = RoundState(
    RoundRecord(1, (0, 1), 0.5, 1.0, 2.0, 3.0, (0.9, 0.8), Evaluation(0.3, 0.01, 0.9, 0.02, 1.5)),
    (0, 2),
    5,
    {2: (0.7, 0.1)},
    {4: (0.8, 0.2)},
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare_directory(tmp_path / "study")
    return tmp_path / "study"


def test_preparing_a_directory_leaves_only_its_state_folder(directory: Path) -> None:
    prepare_directory(directory)
    assert [path.name for path in directory.iterdir()] == ["state"]


def test_directory_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written: Not a directory; give another --out"):
        prepare_directory(tmp_path / "file" / "study")


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


def test_measurements_round_trip_under_their_names(directory: Path) -> None:
    assert read_measurement(directory, "quantization_error") is None
    error, sensitivity = np.random.default_rng(0).random((3, 4)), np.arange(3.0)
    write_measurement(directory, "quantization_error", error[:, ::2])
    write_measurement(directory, "sensitivity-2", sensitivity)
    assert np.array_equal(read_measurement(directory, "quantization_error"), error[:, ::2])
    assert np.array_equal(read_measurement(directory, "sensitivity-2"), sensitivity)
    assert read_measurement(directory, "sensitivity-1") is None


def test_measurement_under_another_name_is_damaged(directory: Path) -> None:
    write_measurement(directory, "another", np.zeros(2))
    path = directory / "state" / "sensitivity-2.safetensors"
    (directory / "state" / "another.safetensors").rename(path)
    with pytest.raises(DamagedFileError, match=r"sensitivity-2\.safetensors: damaged: "):
        read_measurement(directory, "sensitivity-2")


def test_adapter_round_trip(directory: Path) -> None:
    state = TrainerState({"a": torch.arange(6.0).reshape(2, 3).T}, {"step": 3, "name": "é"})
    report = TrainReport(3, 1.5, (0.5, 0.25), {"hits": 0.5})
    write_adapter(directory, 1, state, report)
    again, same_report = read_adapter(directory, 1)
    assert torch.equal(again.tensors["a"], state.tensors["a"])
    assert again.metadata == state.metadata
    assert same_report == report


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
    second = dataclasses.replace(ROUND, record=dataclasses.replace(ROUND.record, round=2))
    for state in (second, ROUND):
        write_round(directory, state)
    assert read_rounds(directory) == [ROUND, second]


def test_missing_round_before_another_is_named(directory: Path) -> None:
    write_round(
        directory, dataclasses.replace(ROUND, record=dataclasses.replace(ROUND.record, round=2))
    )
    with pytest.raises(DamagedFileError, match=r"round-1\.json: is missing; it cannot be made"):
        read_rounds(directory)


def open_study(directory: Path, name: str = "study", url: str | None = None, blocks: int = 1):
    space = make_space(blocks, INTEGER)
    node = QsearchNode(space, (2.5, 6.0), seed=blocks)
    return open_client(directory, url, name, space, node, "accuracy")


def test_database_keeps_trials_and_node(directory: Path) -> None:
    client, node = open_study(directory)
    index = SPACE.uniform([3.0])[0]
    number = client.attach_trial(dict(SPACE.parameters(index)), arm_name="uniform-0")
    client.attach_data(
        number, {"loss": (0.5, 0.1), "average_bits": (3, 0), "accuracy": (1, 0), "seconds": (1, 0)}
    )
    again, loaded = open_study(directory)
    (trial,) = again._experiment.trials.values()
    assert trial.arm.name == "uniform-0"
    assert (SPACE.from_parameters(trial.arm.parameters) == index).all()
    assert loaded is not node
    assert loaded.space == node.space
    assert (directory / "study.db").is_file()


def test_database_elsewhere_is_used(directory: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    open_study(directory, url=url)
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (directory / "study.db").exists()


def test_experiment_of_another_space_is_refused(directory: Path) -> None:
    open_study(directory)
    with pytest.raises(InputError, match="another search space"):
        open_study(directory, blocks=2)
    # Two studies of different names share a database.
    open_study(directory, name="other", blocks=2)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite:////dev/null/no/study.db", "nosuchdatabase://host/name"],
)
def test_storage_that_cannot_be_used_is_named(url: str, directory: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_study(directory, url=url)
    assert str(caught.value).startswith(f"--storage {url!r}")


def test_database_file_that_is_text_is_refused(directory: Path) -> None:
    (directory / "study.db").write_text("this is not a database, but a text of some length\n" * 99)
    with pytest.raises(InputError, match=r"study\.db"):
        open_study(directory)


def test_a_password_is_not_shown_even_in_a_url_that_cannot_be_parsed(directory: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_study(directory, url="postgres//user:secret@host/name")
    assert "secret" not in str(caught.value)
