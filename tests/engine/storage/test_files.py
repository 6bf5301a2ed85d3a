"""Files that are written whole or not at all, their checksums, and their versions before."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_adapter_file, write_adapter
from qsearch.storage.checksums import damage, require_text, with_checksum
from qsearch.storage.files import (
    delete,
    no_links,
    read_or_previous,
    read_state,
    remove_leftovers,
    write_atomically,
    write_json,
    write_keeping_previous,
    write_state,
)
from qsearch.storage.measurements import read_measurement_file, write_measurement
from qsearch.storage.paths import previous_path
from qsearch.storage.study_record import read_trials
from tests.engine.support import in_child

FIELDS = {"name": "é", "numbers": (1, 2.5), "by": {3: None}}
READ = {"name": "é", "numbers": [1, 2.5], "by": {"3": None}}


def write_text(path: Path, text: str) -> None:
    write_keeping_previous(path, lambda own: own.write_text(text))


# Writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    write_json(target, 1)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, fail)
    assert json.loads(target.read_text()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_file_and_folder_are_on_the_disk_before_and_after_the_file_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, move = os.fsync, Path.replace

    def note_sync(handle: int) -> None:
        order.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "file")
        sync(handle)

    def note_move(self: Path, target: Path) -> Path:
        order.append("move")
        return move(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_move)
    write_json(tmp_path / "value.json", 1)
    assert order == ["file", "move", "folder"]


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_files_have_the_rights_that_the_users_mask_leaves(
    mask: int, rights: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_state(tmp_path / "x.json", FIELDS)
        write_example_measurement(tmp_path)  # A library writes this file.
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert found == dict.fromkeys(["x.json", "x.json.previous", "probes-0.safetensors"], rights)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="link: is a link, and links are not followed"):
        no_links(str(tmp_path / "link"), os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no regular file"):
        no_links(str(tmp_path / "pipe"), os.O_RDWR)


def test_a_file_keeps_what_it_held_before(tmp_path: Path) -> None:
    path = tmp_path / "value"
    for text in ("first", "second", "third"):
        write_text(path, text)
    assert path.read_text() == "third"
    assert previous_path(path).read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_file_has_a_copy_of_its_own_for_its_version_before(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_text(path, "first")
    assert previous_path(path).read_text() == "first"
    assert not path.samefile(previous_path(path))


def test_a_file_of_which_no_second_link_can_be_made_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for text in ("first", "second"):
        write_text(tmp_path / "value", text)
    assert previous_path(tmp_path / "value").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_forgotten_file_leaves_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "value", "first")
    delete(tmp_path / "value")
    delete(tmp_path / "value")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    def write_and_die() -> None:
        write_atomically(tmp_path / "value", lambda own: (own.write_text("half"), os._exit(9)))

    assert in_child(write_and_die) == 9
    (tmp_path / ".tmpA1b2C3").write_text("what safetensors was writing")
    (tmp_path / ".mine").write_text("another's")
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine"]


def test_what_another_process_is_writing_is_not_removed(tmp_path: Path) -> None:
    def write(own: Path) -> None:
        own.write_text("whole")
        assert in_child(partial(remove_leftovers, tmp_path)) == 0

    write_atomically(tmp_path / "value", write)
    assert (tmp_path / "value").read_text() == "whole"


# Checksums


def test_state_reads_back_as_json_has_it(tmp_path: Path) -> None:
    write_state(tmp_path / "x.json", FIELDS)
    assert read_state(tmp_path / "x.json") == READ


def test_state_of_an_earlier_version_is_read_without_a_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [3, 4])
    assert read_state(tmp_path / "x.json") == [3, 4]


def test_text_keeps_its_checksum_before_it() -> None:
    text = with_checksum("name: é\n")
    require_text(text, must_have_checksum=True)
    require_text("name: é\n", must_have_checksum=False)
    with pytest.raises(ValueError, match="not where it was"):
        require_text("name: é\n", must_have_checksum=True)
    for end in range(len(text) - 1):
        with pytest.raises(ValueError, match="checksum"):
            require_text(text[:end], must_have_checksum=True)


def write_example_adapter(folder: Path) -> Path:
    (folder / "state").mkdir()
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(2, dtype=torch.int64),
        "c": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
    }
    report = TrainReport(3, 1.5, (0.5, 0.25), {"hits": 0.5})
    write_adapter(folder, 0, TrainerState(tensors, {"step": 3}), report)
    return folder / "state" / "adapter-1.safetensors"


def adapter_values(path: Path) -> Any:
    state, report = read_adapter_file(path)
    return {name: tensor.tolist() for name, tensor in state.tensors.items()}, state.metadata, report


def write_example_measurement(folder: Path) -> Path:
    (folder / "state").mkdir()
    write_measurement(folder, "probes-0", np.array([[0.5, np.inf], [1.0, -2.0]]))
    return folder / "state" / "probes-0.safetensors"


def write_example_state(folder: Path) -> Path:
    write_state(folder / "x.json", FIELDS)
    return folder / "x.json"


EXAMPLES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "json": (write_example_state, read_state),
    "measurement": (write_example_measurement, lambda path: read_measurement_file(path).tolist()),
    "adapter": (write_example_adapter, adapter_values),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], Any]]:
    write, read = EXAMPLES[request.param]
    return write(tmp_path), read


@pytest.mark.parametrize("bit", [0, 5])
def test_no_flipped_bit_changes_what_is_read(
    bit: int, example: tuple[Path, Callable[[Path], Any]]
) -> None:
    path, read = example
    expected, whole = read(path), path.read_bytes()
    found = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert read(path) == expected  # Where the file has only white space, say.
        except DamagedFileError:
            found += 1
    assert found > 0.8 * len(whole)


def test_every_file_that_was_cut_off_is_found(
    example: tuple[Path, Callable[[Path], Any]],
) -> None:
    path, read = example
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=f"{path.name}: damaged: "):
            read(path)


def test_no_flipped_bit_changes_the_trials_that_are_read(finished: Path, tmp_path: Path) -> None:
    """Pages have checksums; what is outside of them is read by its structure."""
    whole, path = (finished / "trials.parquet").read_bytes(), tmp_path / "trials.parquet"
    expected = read_trials(finished / "trials.parquet")
    for position in np.random.default_rng(0).choice(len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(position) % 8
        path.write_bytes(damaged)
        try:
            found = read_trials(path)
        except DamagedFileError:
            continue
        assert_frame_equal(found, expected, check_exact=True)


# Reading


def test_a_damaged_files_version_before_is_read_and_told(tmp_path: Path) -> None:
    path, told = tmp_path / "x.json", list[str]()
    write_state(path, {"value": 1})
    write_state(path, {"value": 2})
    assert read_or_previous(path, read_state, told.append) == {"value": 2}
    assert told == []
    path.write_text("")
    assert read_or_previous(path, read_state, told.append) == {"value": 1}
    assert len(told) == 1
    assert told[0].startswith(f"{path}: damaged: ")
    assert told[0].endswith("; what is read is its previous version")


def test_without_a_good_version_before_the_damage_is_told(tmp_path: Path) -> None:
    write_state(tmp_path / "x.json", {"value": 1})
    for path in tmp_path.iterdir():
        path.write_text("{")
    with pytest.raises(DamagedFileError, match=r"x\.json: damaged"):
        read_or_previous(tmp_path / "x.json", read_state, pytest.fail)


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), damage(tmp_path, OSError):
        (tmp_path / "none").read_text()
