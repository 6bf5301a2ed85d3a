from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.hub_datasets import HubDataset, read_dataset

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec

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


# Shaped as the hub's nyu-mll/glue: named splits, integer labels, an index; QQP's pairs.
GLUE = pd.DataFrame(
    {
        "question1": [f"w{index} w1" for index in range(6)],
        "question2": [f"w2 w{index}" for index in range(6)],
        "label": [0, 1, 1, 0, 1, 0],
        "idx": range(6),
    }
)


def pairs_in(folder: Path, **options: object) -> Classification:
    """Return the task of QQP's pairs in a data set's two Parquet files."""
    files = {split: f"{split}.parquet" for split in ("train", "validation")}
    dataset = HubDataset(name=str(folder), files=files)
    return Classification(
        Classification.Options(dataset=dataset, text=("question1", "question2"), **options)
    )


def test_a_glue_data_set_is_classified_by_its_integer_labels(
    folder: Path, bert_folder: Path
) -> None:
    for split in ("train", "validation"):
        GLUE.to_parquet(folder / f"{split}.parquet")
    task = pairs_in(folder)
    task.prepare(task.load_model(ModelSpec(name=str(bert_folder)), 0).tokenizer)
    assert task.labels == ("0", "1")
    batches = list(task.batches("train", 6))
    labels = torch.cat([batch["labels"] for batch in batches])
    assert labels.sum() == 3
    assert batches[0]["input_ids"].shape[1] >= 4


def test_a_data_set_with_unlabelled_examples_is_refused(folder: Path, bert_folder: Path) -> None:
    # GLUE's own test splits carry the label -1.
    GLUE.to_parquet(folder / "train.parquet")
    GLUE.assign(label=-1).to_parquet(folder / "validation.parquet")
    with pytest.raises(InputError, match=r"labels \['-1'\]"):
        pairs_in(folder).load_model(ModelSpec(name=str(bert_folder)), 0)


def test_label_names_of_a_data_set_are_in_its_own_order(folder: Path, bert_folder: Path) -> None:
    import datasets

    # QQP's names: sorted, F1 would be of the pairs that are no duplicates.
    names = datasets.ClassLabel(names=["not_duplicate", "duplicate"])
    for split in ("train", "validation"):
        made = datasets.Dataset.from_pandas(GLUE).cast_column("label", names)
        made.to_parquet(folder / f"{split}.parquet")
    task = pairs_in(folder, metric="f1")
    task.prepare(task.load_model(ModelSpec(name=str(bert_folder)), 0).tokenizer)
    assert task.labels == ("not_duplicate", "duplicate")
    labels = torch.tensor([1, 1, 0])
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert task.summarise(task.score(logits, {"labels": labels}))[0] == pytest.approx(2 / 3)


def test_examples_without_a_label_are_left_out_where_labels_have_names(
    folder: Path, bert_folder: Path
) -> None:
    import datasets

    # SNLI's examples without a majority have -1, in training too; and training may lack a label.
    names = datasets.ClassLabel(names=["yes", "perhaps", "no"])
    made = datasets.Dataset.from_pandas(GLUE.assign(label=[0, -1, 2, 0, 2, -1]))
    for split in ("train", "validation"):
        made.cast_column("label", names).to_parquet(folder / f"{split}.parquet")
    task = pairs_in(folder)
    loaded = task.load_model(ModelSpec(name=str(bert_folder)), 0)
    task.prepare(loaded.tokenizer)
    assert task.examples("train") == task.examples("validation") == 4
    assert loaded.module.config.id2label == {0: "yes", 1: "perhaps", 2: "no"}


# MNLI's columns and splits: three labels, pairs, and two validation sets.
MNLI = pd.DataFrame(
    {
        "premise": [f"w{index} w1" for index in range(9)],
        "hypothesis": [f"w2 w{index}" for index in range(9)],
        "label": [0, 1, 2] * 3,
    }
)


def test_mnli_is_validated_on_its_matched_pairs(folder: Path, bert_folder: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    sizes = {"train": 9, "validation_matched": 6, "validation_mismatched": 3}
    for split, size in sizes.items():
        made = datasets.Dataset.from_pandas(MNLI[:size]).cast_column("label", names)
        made.to_parquet(folder / f"{split}.parquet")
    source = HubDataset(
        name=str(folder),
        files={split: f"{split}.parquet" for split in sizes},
        validation="validation_matched",
    )
    task = Classification(Classification.Options(dataset=source, text=("premise", "hypothesis")))
    loaded = task.load_model(ModelSpec(name=str(bert_folder)), 0)
    task.prepare(loaded.tokenizer)
    assert task.examples("validation") == 6
    assert task.labels == ("entailment", "neutral", "contradiction")
    assert loaded.module.config.num_labels == 3


def test_rows_of_text_are_lines_once_and_none_without_text(
    folder: Path, llama_folder: Path
) -> None:
    texts = ["w0\n", "w1", None, "w2"]
    rows = "\n".join(json.dumps({"text": text}) for text in texts)
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text(f"{rows}\n")
    files = {split: f"{split}.jsonl" for split in ("train", "validation")}
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(dataset=HubDataset(name=str(folder), files=files))
    )
    assert list(task._lines("train")) == ["w0\n", "w1\n", "w2\n"]


def test_the_text_of_a_data_set_is_packed_in_its_order(folder: Path, llama_folder: Path) -> None:
    for name in ("train", "validation"):
        rows = [json.dumps({"text": f"w{index} w{index + 1}\n"}) for index in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    files = {split: f"{split}.jsonl" for split in ("train", "validation")}
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(
            dataset=HubDataset(name=str(folder), files=files), length=8, train_tokens=24
        )
    )
    tokenizer = task.load_model(ModelSpec(name=str(llama_folder)), 0).tokenizer
    task.prepare(tokenizer)
    (batch,) = task.batches("train", 4)
    words = tokenizer.convert_ids_to_tokens(batch["input_ids"].flatten().tolist())
    assert words[:6] == ["w0", "w1", "w1", "w2", "w2", "w3"]
    assert batch["input_ids"].shape == (3, 8)
