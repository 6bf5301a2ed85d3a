"""What `qsearch check` refuses before a run reads the data."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsDataCheck
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import classification

TABLE = pd.DataFrame({"text": ["w1", "w2"], "label": ["left", "right"]})


def written(path: Path, table: pd.DataFrame = TABLE) -> Path:
    """Write a table in the format that its name ends in."""
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_needs_its_columns_and_a_row(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"data.{suffix}")
    task = classification((path, path))
    assert isinstance(task, SupportsDataCheck)
    task.require_data()
    assert task.labels == ("left", "right")
    other = classification((path, path), text="phrase")
    for attempt in (other.require_data, lambda: other.labels):  # As a run refuses it.
        with pytest.raises(
            InputError,
            match=rf"data\.{suffix} has no column 'phrase'; its columns: \['text', 'label'\]",
        ):
            attempt()
    written(path, TABLE[:0])
    with pytest.raises(InputError, match=rf"data\.{suffix} has no rows"):
        task.require_data()


def test_rows_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"text,label\n" + b"w1,left\n" * 300_000 + b"\xff\xfe,right\n")
    task = classification((path, path))
    task.require_data()
    with pytest.raises(InputError, match="cannot be read"):
        _ = task.labels


def test_a_field_that_the_first_json_lines_lack_is_found(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "w1"}\n\n{"label": "left"}\nno JSON\n')
    classification((path, path)).require_data()


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_text_without_text_is_refused_before_the_model_is_loaded(
    content: str, make_trainer, make_causal_task, llama_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text(content)
    task = make_causal_task(train=tmp_path / "empty.txt")
    with pytest.raises(InputError, match=r"empty\.txt holds no text"):
        task.require_data()
    without_weights = tmp_path / "model"
    shutil.copytree(llama_folder, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(InputError, match=r"empty\.txt holds no text"):
        _ = make_trainer(task=task, model=without_weights).study.loaded
    # What only the tokenizer can tell is told before the weights are loaded, too.
    with pytest.raises(InputError, match=r"fewer than task\.length 5000"):
        make_causal_task(length=5000).load_model(ModelSpec(name=str(without_weights)), 0)


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_a_missing_file_is_refused(missing: str, tmp_path: Path) -> None:
    files = {name: written(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    files[missing].unlink()
    for task in (Classification, CausalLanguageModelling):
        with pytest.raises(InputError, match=rf"{missing}\.csv does not exist"):
            task(task.Options(**files)).require_data()


def test_a_test_split_that_no_run_reads_may_be_missing(tmp_path: Path) -> None:
    files = (written(tmp_path / "data.csv"),) * 2
    classification(files, test=tmp_path / "absent.csv").require_data()


@pytest.mark.parametrize("task", [Classification, CausalLanguageModelling])
def test_a_data_set_needs_its_library(task: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets; install the extra"):
        task(task.Options(dataset={"name": "owner/set"})).require_data()
