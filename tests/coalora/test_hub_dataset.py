from __future__ import annotations

import json
from pathlib import Path

import pytest
from qsearch_coalora.tasks.data import HubDataset, read_dataset

from qsearch.errors import InputError

pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a folder, with more files than a study needs."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    inside = tmp_path / "set"
    inside.mkdir()
    for name, count in (("part-0", 3), ("part-1", 50), ("held-out", 2)):
        rows = [json.dumps({"text": f"{name} {index}"}) for index in range(count)]
        (inside / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return inside


def test_named_files_alone_are_read(folder: Path) -> None:
    files = {"train": "part-0.jsonl", "validation": "held-out.jsonl"}
    source = HubDataset(name=str(folder), files=files)
    assert read_dataset(source, "train")["text"][:] == ["part-0 0", "part-0 1", "part-0 2"]
    assert read_dataset(source, "validation").num_rows == 2


def test_split_that_is_not_named_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no test split is named"):
        read_dataset(HubDataset(name=str(folder)), "test")


def test_missing_file_is_told_with_its_data_set(folder: Path) -> None:
    source = HubDataset(name=str(folder), files={"train": "absent.jsonl"})
    with pytest.raises(InputError, match="split 'train' cannot be loaded"):
        read_dataset(source, "train")


def test_a_folder_is_not_downloaded(folder: Path) -> None:
    assert HubDataset(name=str(folder)).note == ""
    assert HubDataset(name="owner/set").note
