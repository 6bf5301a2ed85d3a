"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checkpoints import read_adapter, write_adapter
from qsearch.storage.checksums import damage, read_checked, yaml_with_checksum
from qsearch.storage.files import no_links, remove_leftovers, write_atomically, write_json
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.storage.parquet import read_table, write_table
from qsearch.storage.state_file import StateFile
from tests.engine.fake_study import in_child


@dataclass(frozen=True)
class Example:
    name: str
    numbers: tuple[float, ...] = ()
    by: Mapping[int, int | None] = field(default_factory=dict)


STATE = StateFile(Example)
EXAMPLE = Example('é "checksum": "sha256:"', (1.0, 2.5, math.inf), {3: None})


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


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_rights_that_the_users_mask_leaves(
    mask: int, rights: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "x.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == rights


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="link: is a link, and links are not followed"):
        no_links(str(tmp_path / "link"), os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is not a regular file"):
        no_links(str(tmp_path / "pipe"), os.O_RDWR)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    def write_and_die() -> None:
        write_atomically(tmp_path / "value", lambda own: (own.write_text("half"), os._exit(9)))

    assert in_child(write_and_die) == 9
    (tmp_path / ".mine").write_text("another's")
    os.mkfifo(tmp_path / ".pipe.part")
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", ".pipe.part"]


def test_what_another_process_is_writing_is_not_removed(tmp_path: Path) -> None:
    def write(own: Path) -> None:
        own.write_text("whole")
        assert in_child(partial(remove_leftovers, tmp_path)) == 0

    write_atomically(tmp_path / "value", write)
    assert (tmp_path / "value").read_text() == "whole"


# Reading


def write_example_adapter(folder: Path) -> Path:
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(2, dtype=torch.int64),
        "c": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
    }
    report = TrainReport(3, 1.5, (0.5, 0.25), {"hits": 0.5})
    write_adapter(folder, 1, TrainerState(tensors, {"step": 3, "checksum": "sha256:"}), report)
    return folder / "state" / "adapter-1.safetensors"


def adapter_values(path: Path) -> Any:
    state, report = read_adapter(path.parent.parent, 1)
    return {name: tensor.tolist() for name, tensor in state.tensors.items()}, state.metadata, report


def write_example_measurement(folder: Path) -> Path:
    write_measurement(folder, "sensitivity-1", np.array([[0.5, np.inf], [1.0, -2.0]]))
    return folder / "state" / "sensitivity-1.safetensors"


def measured_values(path: Path) -> Any:
    values = read_measurement(path.parent.parent, "sensitivity-1")
    assert values is not None
    return values.tolist()


def write_example_state(folder: Path) -> Path:
    STATE.write(folder / "state" / "round-1.json", EXAMPLE)
    return folder / "state" / "round-1.json"


def write_example_yaml(folder: Path) -> Path:
    (folder / "study.yaml").write_bytes(yaml_with_checksum("name: é\n"))
    return folder / "study.yaml"


def write_example_table(folder: Path) -> Path:
    # A text that looks like a checksum, as a hostile model could give as the reason of a failure.
    hostile = f'"checksum": "sha256:{"a" * 64}"'
    write_table(folder / "trials.parquet", pd.DataFrame({"reason": [hostile, ""], "loss": [1, 2]}))
    return folder / "trials.parquet"


EXAMPLES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "json": (write_example_state, STATE.read),
    "yaml": (write_example_yaml, read_checked),
    "table": (write_example_table, lambda path: read_table(path).to_dict()),
    "measurement": (write_example_measurement, measured_values),
    "adapter": (write_example_adapter, adapter_values),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], Any]]:
    write, read = EXAMPLES[request.param]
    (tmp_path / "state").mkdir()
    return write(tmp_path), read


def test_every_flipped_bit_and_every_cut_is_found(
    example: tuple[Path, Callable[[Path], Any]],
) -> None:
    path, read = example
    whole, expected = path.read_bytes(), read(path)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        for content in (bytes(flipped), whole[:position]):
            path.write_bytes(content)
            with pytest.raises(DamagedFileError, match=f"{path.name}: damaged: "):
                read(path)
    path.write_bytes(whole)
    assert read(path) == expected


def test_state_reads_back_as_it_was_written(tmp_path: Path) -> None:
    STATE.write(tmp_path / "x.json", EXAMPLE)
    assert STATE.read(tmp_path / "x.json") == EXAMPLE
    assert json.loads((tmp_path / "x.json").read_text())["by"] == {"3": None}
    STATE.write(tmp_path / "x.json", Example("", (math.nan,)))
    assert math.isnan(STATE.read(tmp_path / "x.json").numbers[0])


def test_tensors_read_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    tensors, metadata, report = adapter_values(write_example_adapter(tmp_path))
    rows = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert tensors == {"a": rows, "b": 2, "c": [1.0, 1.0, 1.0], "none": []}
    assert metadata == {"step": 3, "checksum": "sha256:"}
    assert report == TrainReport(3, 1.5, (0.5, 0.25), {"hits": 0.5})
    assert measured_values(write_example_measurement(tmp_path)) == [[0.5, math.inf], [1.0, -2.0]]
    assert read_measurement(tmp_path, "sensitivity-2") is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"name": "x", "numbers": ["1"]}, "numbers.0: Input should be a valid number"),
        ({"name": "x", "more": 1}, "more: Unexpected keyword argument"),
        ({"name": "x", "numbers": [10**400]}, "an integer of 401 digits"),
        ({}, "name: Field required"),
    ],
)
def test_state_of_a_forger_that_holds_something_else_is_refused(
    value: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    StateFile(dict[str, Any]).write(tmp_path / "x.json", value)
    with pytest.raises(DamagedFileError) as caught:
        STATE.read(tmp_path / "x.json")
    assert f"x.json: damaged: {reason}" in str(caught.value)


def test_a_missing_file_is_not_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), damage(tmp_path, OSError):
        (tmp_path / "none").read_text()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("state/adapter-1.safetensors", "delete it, then run the study again"),
        ("study.yaml", "it cannot be made again: restore it"),
        ("notes.txt", "it cannot be made again: restore it"),
    ],
)
def test_a_damaged_file_says_what_to_do(name: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=advice), damage(tmp_path / name, ValueError):
        raise ValueError("why")
