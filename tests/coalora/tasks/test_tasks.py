from __future__ import annotations

import math
from functools import partial

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from qsearch_coalora.tasks.batching import encode, length_grouped
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.data_files import read_table

from qsearch.errors import InputError
from qsearch.plugins.protocols import Scores
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import classification, small_tokenizer


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_file_is_read(tmp_path, suffix) -> None:
    frame = pd.DataFrame({"sentence": ['w1 "w2', "w3", "w4 w5"], "label": [0, 1, 0]})
    write = {
        "csv": partial(frame.to_csv, index=False),
        "tsv": partial(frame.to_csv, sep="\t", index=False, quoting=3),
        "jsonl": partial(frame.to_json, orient="records", lines=True),
        "parquet": frame.to_parquet,
    }
    path = tmp_path / f"data.{suffix}"
    write[suffix](path)
    # Delimited files are read as text: a label is what the file says, "0" or "0.0".
    pd.testing.assert_frame_equal(read_table(path).astype(str), frame.astype(str))


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    (tmp_path / "data.xls").write_text("")
    with pytest.raises(InputError, match=r"\.csv.*\.jsonl.*\.parquet.*\.tsv"):
        read_table(tmp_path / "data.xls")


def test_a_label_that_training_lacks_is_refused(table_files, tmp_path) -> None:
    (tmp_path / "validation.tsv").write_text("text\tlabel\nw1\tmiddle\n")
    task = classification((table_files[0], tmp_path / "validation.tsv"))
    with pytest.raises(InputError, match=r"middle.*left.*right"):
        task.prepare(small_tokenizer())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train": "a.csv"},
        {"train": "a.csv", "validation": "b.csv", "dataset": {"name": "x"}},
    ],
)
def test_exactly_one_source_of_data_is_wanted(options) -> None:
    with pytest.raises(ValidationError, match="train and validation"):
        Classification.Options(**options)


def test_limits_take_a_fixed_subset(table_files) -> None:
    task = classification(table_files, validation_examples=10)
    task.prepare(small_tokenizer())
    sizes = [len(batch["labels"]) for batch in task.batches("validation", 4)]
    assert (sizes, task.examples("validation")) == ([4, 4, 2], 10)
    with pytest.raises(InputError, match=r"task\.test is not given"):
        next(iter(task.batches("test", 4)))


def test_guessing_loses_the_entropy_of_the_labels(tmp_path, make_causal_task) -> None:
    rows = [f"w{n}\t{'left' if n < 6 else 'right'}" for n in range(8)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows, ""]))
    task = classification((tmp_path / "train.tsv", tmp_path / "validation.tsv"))
    assert task.chance_loss("validation") == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )
    tokenizer, causal = small_tokenizer(), make_causal_task()
    causal.prepare(tokenizer)
    assert causal.chance_loss("validation") == math.log(len(tokenizer))


def test_a_text_without_a_token_is_refused() -> None:
    with pytest.raises(InputError, match="no token of the text ' '"):
        encode(small_tokenizer(), [("w1",), (" ",)], 8)


@pytest.mark.parametrize("pair", [False, True])
def test_a_length_without_room_for_text_is_refused(tmp_path, pair: bool) -> None:
    tokenizer = small_tokenizer()
    tokenizer.num_special_tokens_to_add = lambda pair: 3 if pair else 2
    texts = [("w1", "w2"), ("w3", "w4")] if pair else [("w1",), ("w3",)]
    least = 5 if pair else 3
    assert len(encode(tokenizer, texts, least)) == 2
    with pytest.raises(InputError, match=rf"max_length {least - 1} leaves.* at least {least}"):
        encode(tokenizer, texts, least - 1)


def test_integer_labels_keep_their_order(table_files, tmp_path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nw1,10\nw2,9\nw3,2\n")
    task = classification((tmp_path / "train.csv", table_files[1]))
    assert task.labels == ("2", "9", "10")


def test_a_new_head_is_drawn_from_the_seed_and_named(bert_folder, table_files) -> None:
    task = classification(table_files)
    spec = ModelSpec(name=str(bert_folder))
    loaded = [task.load_model(spec, seed) for seed in (0, 0, 1)]
    weights = [each.module.classifier.weight for each in loaded]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert loaded[0].head == ("classifier",)


def test_batches_cover_every_example_once_in_any_order() -> None:
    lengths = [index % 7 + 1 for index in range(50)]
    for generator in (None, torch.Generator().manual_seed(0)):
        batches = list(length_grouped(lengths, 8, generator))
        assert sorted(index for batch in batches for index in batch) == list(range(50))
        assert max(map(len, batches)) == 8


def test_text_is_packed_to_the_length_without_padding(make_causal_task) -> None:
    task = make_causal_task(length=16, validation_tokens=100)
    task.prepare(small_tokenizer())
    batches = list(task.batches("validation", 4))
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, 16), (2, 16)]
    assert sum(len(batch["labels"]) for batch in task.batches("train", 8)) == 40 * 60 // 16
    # Examples are predicted tokens.
    scores = [task.score(torch.zeros(*batch["labels"].shape, 99), batch) for batch in batches]
    assert task.examples("validation") == Scores.concatenate(scores).weights.sum() == 6 * 15


def test_perplexity_is_the_exponential_of_the_mean_token_loss(make_causal_task) -> None:
    logits, labels = torch.randn(3, 16, 63), torch.randint(0, 63, (3, 16))
    scores = make_causal_task().score(logits, {"labels": labels})
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 63), labels[:, 1:].reshape(-1)
    )
    metrics = make_causal_task().summarise(scores)
    assert set(metrics) == {"perplexity"}, "nothing is compared"
    perplexity, error = metrics["perplexity"].value, metrics["perplexity"].standard_error
    assert perplexity == pytest.approx(expected.exp().item(), rel=1e-5)
    assert error == pytest.approx(perplexity * scores.losses.std().item() / math.sqrt(3), rel=1e-5)


@pytest.mark.parametrize(
    ("split", "tokens", "least"), [("train", 15, 16), ("validation", 31, 32), ("test", 31, 32)]
)
def test_a_bound_below_what_a_split_needs_is_refused(
    make_causal_task, split, tokens, least
) -> None:
    with pytest.raises(ValidationError, match=rf"{split}_tokens {tokens} must be at least {least}"):
        make_causal_task(length=16, **{f"{split}_tokens": tokens})
    make_causal_task(length=16, **{f"{split}_tokens": least})


def test_an_encoder_is_no_causal_language_model(bert_folder, make_causal_task) -> None:
    with pytest.raises(InputError, match="causal"):
        make_causal_task().load_model(ModelSpec(name=str(bert_folder)), 0)
