"""Damaged files of a study: one message says what to do, and doing it gives the same trials."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import DamagedFileError, InputError
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.directory import load_study_file
from qsearch.storage.paths import study_files
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAILING, Stop, results, stopping_at

NOT_READ = {"log.jsonl", "state/status.json", "state/lock"}
"""Files that nobody needs to be whole: of a damaged one, what can be read is read."""


@pytest.fixture(scope="module")
def unfinished(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, stopped after the search of its second round."""
    directory = tmp_path_factory.mktemp("unfinished") / "run"
    observer = stopping_at("evaluating candidates", 2)
    with pytest.raises(Stop):
        run_spec(FAILING, directory, observer=observer)
    return directory


def files_of(directory: Path, made_again: bool) -> list[str]:
    files = study_files(directory).items()
    return [name for name, kind in files if kind.made_again == made_again and name not in NOT_READ]


def test_every_file_of_an_unfinished_study_is_known(unfinished: Path) -> None:
    files = {path for path in unfinished.rglob("*") if path.is_file()}
    assert {path.relative_to(unfinished).as_posix() for path in files} == {*study_files(unfinished)}


def test_a_damaged_file_that_is_made_again_may_be_deleted(
    unfinished: Path, uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    names = files_of(unfinished, made_again=True)
    assert len(names) > 12
    for name in names:
        directory = tmp_path / name.replace("/", "-")
        shutil.copytree(unfinished, directory)
        (directory / name).write_bytes((directory / name).read_bytes()[:-9])
        message = ""
        try:
            run_spec(FAILING, directory)
        except DamagedFileError as error:
            message = str(error)
            (directory / name).unlink()
            run_spec(FAILING, directory)
        expected = rf"{directory / name}: damaged: .*; delete it, then run the study again, .*"
        # A run neither reads nor replaces the first round's arrays, and what is for readers alone.
        is_unread = "-1." in name or "layer_scores" in name or "examples/" in name
        assert re.fullmatch(expected, message) or (is_unread and not message), name
        assert_frame_equal(results(directory), uninterrupted, check_exact=True, obj=name)


def test_a_damaged_file_that_is_not_made_again_is_named(unfinished: Path, tmp_path: Path) -> None:
    names = files_of(unfinished, made_again=False)
    assert names == ["state/identity.json", "state/round-1.json", "study.db", "study.yaml"]
    for name in names:
        directory = tmp_path / name.replace("/", "-")
        shutil.copytree(unfinished, directory)
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=f"{name}: .*restore it"):
            run_spec(FAILING, directory)


def test_an_adapter_that_was_deleted_is_trained_again(faulty: Path, tmp_path: Path) -> None:
    """The last one is needed to export."""
    directory = tmp_path / "run"
    shutil.copytree(faulty, directory)
    (directory / "state" / "adapter-2.safetensors").unlink()
    run_spec(FAILING, directory)
    again, before = read_adapter(directory, 2)[0], read_adapter(faulty, 2)[0]
    assert {name: tensor.tolist() for name, tensor in again.tensors.items()} == {
        name: tensor.tolist() for name, tensor in before.tensors.items()
    }


def test_a_study_yaml_is_edited_in_a_copy_alone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run" / "study.yaml", tmp_path / "copy.yaml"):
        text = (finished / "study.yaml").read_text()
        path.write_text(text.replace("rounds: 2", "rounds: 3"))
    with pytest.raises(InputError, match=r"study\.yaml: damaged: .*edit a copy of its file"):
        load_study_file(tmp_path / "run" / "study.yaml")
    assert load_study_file(tmp_path / "copy.yaml").search.rounds == 3
