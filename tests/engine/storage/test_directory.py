"""The study directory and Ax's database."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.directory import prepare_directory
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.paths import adapter_path
from qsearch.storage.round_state import RoundState, read_rounds, write_round
from qsearch.storage.study_record import RoundRecord
from tests.engine.support import INTEGER, make_space
from tests.small_disk import small_disk

SPACE = make_space(1, INTEGER)
ROUND = RoundState(
    RoundRecord(0, (0, 1), 0.5, 1.0, 2.0, 3.0, (0.9, 0.8), Evaluation(0.3, 0.01, 0.9, 0.02, 1.5)),
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


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        prepare_directory(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    with small_disk(tmp_path / "mount", "64k") as folder:
        yield folder


def test_full_file_system_is_refused(mount: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (mount / "filler").write_bytes(b"x" * 2**20)
    with pytest.raises(InputError, match="No space left on device; give another --out"):
        prepare_directory(mount / "study")


def test_read_only_file_system_is_refused(mount: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    with pytest.raises(InputError, match="Read-only file system; give another --out"):
        prepare_directory(mount / "study")


@pytest.mark.parametrize("number", [28, 30, 13])
def test_directory_that_cannot_be_written_is_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above where nothing can be mounted: full, read-only, and forbidden."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the reason")

    monkeypatch.setattr("qsearch.storage.directory.write_atomically", refuse)
    with pytest.raises(InputError, match="the reason; give another --out"):
        prepare_directory(tmp_path)


def test_measurements_round_trip_under_their_names(directory: Path) -> None:
    assert read_measurement(directory, "quantization_error") is None
    error, sensitivity = np.random.default_rng(0).random((3, 4)), np.arange(3.0)
    write_measurement(directory, "quantization_error", error[:, ::2])
    write_measurement(directory, "sensitivity-2", sensitivity)
    assert np.array_equal(read_measurement(directory, "quantization_error"), error[:, ::2])
    assert np.array_equal(read_measurement(directory, "sensitivity-2"), sensitivity)
    assert read_measurement(directory, "sensitivity-1") is None


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, "another name"])
def test_damaged_measurement_is_named(damage: bytes | str, directory: Path) -> None:
    path = directory / "state" / "sensitivity-2.safetensors"
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        write_measurement(directory, damage, np.zeros(2))
        (directory / "state" / f"{damage}.safetensors").rename(path)
    with pytest.raises(DamagedFileError, match=r"sensitivity-2\.safetensors: damaged: "):
        read_measurement(directory, "sensitivity-2")


def test_adapter_round_trip(directory: Path) -> None:
    state = TrainerState({"a": torch.arange(6.0).reshape(2, 3).T}, {"step": 3, "name": "é"})
    report = TrainReport(3, 1.5, (0.5, 0.25), {"hits": 0.5})
    write_adapter(directory, 0, state, report)
    again, same_report = read_adapter(directory, 0)
    assert torch.equal(again.tensors["a"], state.tensors["a"])
    assert again.metadata == state.metadata
    assert same_report == report


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, None])
def test_damaged_adapter_is_named(damage: bytes | None, directory: Path) -> None:
    if damage is not None:
        adapter_path(directory, 0).write_bytes(damage)
    with pytest.raises(DamagedFileError, match=r"adapter-1\.safetensors: .*the study again"):
        read_adapter(directory, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"trials": "5"},
        {"trials": -1},
        {"next_set": ["0"]},
        {"next_set": None},
        {"expected": {"0": [1.0]}},
        {"expected": {"a": [1.0, 0.5]}},
        {"record": {**dataclasses.asdict(ROUND.record), "hypervolume": "large"}},
        {"record": {**dataclasses.asdict(ROUND.record), "train_losses": [[]]}},
        {"surprise": 1},
    ],
)
def test_round_without_a_checksum_that_holds_something_else_is_damaged(
    changed: dict[str, object], directory: Path
) -> None:
    """As in the archive of a forger, who leaves the checksum out."""
    path = directory / "state" / "round-1.json"
    write_round(directory, ROUND)
    fields = json.loads(path.read_text())
    del fields["checksum"]
    path.write_text(json.dumps(fields))
    assert read_rounds(directory) == [ROUND]
    path.write_text(json.dumps({**fields, **changed}))
    with pytest.raises(DamagedFileError, match=r"round-1\.json: damaged"):
        read_rounds(directory)


def test_rounds_round_trip_up_to_the_first_gap(directory: Path) -> None:
    assert read_rounds(directory) == []
    second = dataclasses.replace(ROUND, record=dataclasses.replace(ROUND.record, round=1))
    fourth = dataclasses.replace(ROUND, record=dataclasses.replace(ROUND.record, round=3))
    for state in (ROUND, second, fourth):
        write_round(directory, state)
    assert read_rounds(directory) == [ROUND, second]


@pytest.mark.parametrize("text", ["", "{}", '{"record": {"training_set": 3}}'])
def test_damaged_round_is_named(text: str, directory: Path) -> None:
    (directory / "state" / "round-1.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"round-1\.json: damaged"):
        read_rounds(directory)


def test_round_file_is_readable_json(directory: Path) -> None:
    write_round(directory, ROUND)
    loaded = json.loads((directory / "state" / "round-1.json").read_text())
    assert loaded["next_set"] == [0, 2]
    assert loaded["record"]["hypervolume"] == 0.5
