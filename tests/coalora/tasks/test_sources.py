"""Data sets of the ``datasets`` library, shaped as the hub's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.causal_texts import causal_lines
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.sources import HubDataset, read_dataset

from qsearch.errors import InputError
from tests.coalora.conftest import small_tokenizer

datasets = pytest.importorskip("datasets")

Write = Callable[..., HubDataset]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a writer of a data set's tables, a Parquet file of each, with names of labels."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()

    def writer(
        tables: dict[str, pd.DataFrame], names: Sequence[str] = (), **fields: object
    ) -> HubDataset:
        for split, table in tables.items():
            made = datasets.Dataset.from_pandas(table)
            if names:
                made = made.cast_column("label", datasets.ClassLabel(names=list(names)))
            made.to_parquet(folder / f"{split}.parquet")
        files = {split: f"{split}.parquet" for split in tables}
        return HubDataset.model_validate({"name": str(folder), "files": files} | fields)

    return writer


def rows(labels: Sequence[int]) -> pd.DataFrame:
    """Pairs of texts, as QQP and MNLI have them, with an index."""
    count = range(len(labels))
    pairs = {"first": [f"w{n} w1" for n in count], "second": [f"w2 w{n}" for n in count]}
    return pd.DataFrame({**pairs, "label": labels, "idx": count})


def task_of(dataset: HubDataset, **options: object) -> Classification:
    """A prepared task of a data set's pairs."""
    task = Classification(
        Classification.Options(dataset=dataset, text=("first", "second"), **options)
    )
    task.prepare(small_tokenizer())
    return task


def test_named_files_alone_are_read(write: Write) -> None:
    source = write({"train": rows([0, 1]), "validation": rows([1]), "other": rows([0] * 9)})
    source = source.model_copy(update={"files": {"train": "train.parquet"}})
    assert read_dataset(source, "train")["first"][:] == ["w0 w1", "w1 w1"]


def test_a_split_that_is_not_named_or_not_there_is_refused(write: Write) -> None:
    source = write({}, files={"train": "absent.jsonl"})
    with pytest.raises(InputError, match="no test split is named"):
        read_dataset(source, "test")
    with pytest.raises(InputError, match=r"set', split 'train' cannot be loaded"):
        read_dataset(source, "train")


def test_a_folder_is_not_downloaded(tmp_path: Path) -> None:
    for name, count in ((str(tmp_path), 0), ("owner/set", 1)):
        assert len(Classification.Options(dataset={"name": name}).notes) == count


@pytest.mark.parametrize(
    ("names", "labels"), [((), ("0", "1")), (("not_duplicate", "duplicate"),) * 2]
)
def test_labels_are_in_the_data_sets_own_order(
    names: tuple[str, ...], labels: tuple[str, ...], write: Write
) -> None:
    # Of QQP's names, sorted ones, F1 would be of the pairs that are no duplicates.
    table = rows([0, 1, 1, 0, 1, 0])
    task = task_of(write({"train": table, "validation": table}, names), metric="f1")
    assert task.labels == labels
    (batch,) = task.batches("train", 6)
    assert batch["labels"].sum() == 3
    assert batch["attention_mask"].sum() == 6 * 4
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    scores = task.score(logits, {"labels": torch.tensor([1, 1, 0])})
    assert task.summarise(scores)["f1"].value == pytest.approx(2 / 3)


def test_examples_without_a_label_are_left_out_where_labels_have_names(write: Write) -> None:
    # SNLI's examples without a majority have -1, in training too; and training may lack a label.
    table = rows([0, -1, 2, 0, 2, -1])
    source = write({"train": table, "validation": table}, ("yes", "perhaps", "no"))
    task = task_of(source)
    assert task.examples("train") == task.examples("validation") == 4
    assert task.labels == ("yes", "perhaps", "no")


def test_mnli_is_validated_on_its_matched_pairs(write: Write) -> None:
    sizes = {"train": 9, "validation_matched": 6, "validation_mismatched": 3}
    source = write(
        {split: rows([0, 1, 2] * (size // 3)) for split, size in sizes.items()},
        ("entailment", "neutral", "contradiction"),
        validation="validation_matched",
    )
    assert task_of(source).examples("validation") == 6


def test_rows_of_text_are_lines_in_their_order_and_none_without_text(write: Write) -> None:
    text = pd.DataFrame({"text": ["w0\n", "w1", None, "w2 w3", *["w4"] * 20]})
    source = write({"train": text, "validation": text})
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(dataset=source, length=8, train_tokens=17)
    )
    tokenizer = small_tokenizer()
    task.prepare(tokenizer)
    (batch,) = task.batches("train", 4)
    assert batch["input_ids"].shape == (2, 8)
    words = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert words == ["w0", "w1", "w2", "w3", "w4", "w4", "w4", "w4"]


def test_a_column_of_text_that_a_data_set_lacks_is_refused(write: Write) -> None:
    options = CausalLanguageModelling.Options(dataset=write({"train": rows([0])}))
    with pytest.raises(InputError, match=r"no column 'text'; its columns: \['first', 'second'"):
        causal_lines(options, "train")
