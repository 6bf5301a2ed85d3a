"""Which output of a classifier is for which label, and which label F1 is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from qsearch_coalora.tasks.labels import as_the_head_has_them
from transformers import AutoModelForSequenceClassification

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import classification, small_tokenizer


def classifier(bert_folder: Path, folder: Path, *names: str) -> ModelSpec:
    """A classifier with a head of its own, whose outputs have these names in this order."""
    torch.manual_seed(1)
    module = AutoModelForSequenceClassification.from_pretrained(
        bert_folder, id2label=dict(enumerate(names))
    )
    module.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return ModelSpec(name=str(folder))


@pytest.fixture
def fine_tuned(bert_folder: Path, tmp_path: Path) -> ModelSpec:
    return classifier(bert_folder, tmp_path, "Right", "Left")


def test_a_fine_tuned_heads_outputs_stay_those_of_their_labels(fine_tuned, table_files) -> None:
    task = classification(table_files)
    loaded = task.load_model(fine_tuned, 0)
    task.prepare(loaded.tokenizer)
    assert task.labels == ("right", "left")
    assert loaded.module.config.id2label == {0: "right", 1: "left"}
    written = [line.split("\t")[1] for line in table_files[1].read_text().splitlines()[1:]]
    labels = torch.cat([batch["labels"] for batch in task.batches("validation", 7)])
    assert int(labels.sum()) == written.count("left")


def test_a_new_head_has_the_datas_order(bert_folder, table_files) -> None:
    task = classification(table_files)
    module = task.load_model(ModelSpec(name=str(bert_folder)), 0).module
    assert task.labels == ("left", "right")
    assert module.config.label2id == {"left": 0, "right": 1}


def test_outputs_with_other_names_are_refused_unless_their_order_is_given(
    fine_tuned, table_files, tmp_path
) -> None:
    files = []
    for path in table_files:
        text = path.read_text().replace("\tleft", "\t0").replace("\tright", "\t1")
        files.append(tmp_path / path.name)
        files[-1].write_text(text)
    with pytest.raises(InputError, match=r"outputs named \['Right', 'Left'\].*labels \['0', '1'\]"):
        classification((files[0], files[1])).load_model(fine_tuned, 0)
    task = classification((files[0], files[1]), labels=[1, 0])
    assert task.load_model(fine_tuned, 0).module.config.id2label == {0: "1", 1: "0"}


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        # Outputs without names are in the data's order.
        (("a", "c", "b"), ("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "c", "b")),
        (("a", "c", "b"), (None, None, None), ("a", "c", "b")),
        (("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), ("LABEL_1", "LABEL_0")),
        (("0", "1"), (1, 0), ("1", "0")),
        (("US", "us"), ("us", "US"), ("us", "US")),
    ],
)
def test_labels_that_are_the_outputs_names_are_in_their_order(labels, outputs, expected) -> None:
    assert as_the_head_has_them(labels, dict(enumerate(outputs)), "model") == expected


def test_labels_that_differ_in_case_alone_are_not_guessed() -> None:
    with pytest.raises(InputError, match=r"give task\.labels"):
        as_the_head_has_them(("no", "No"), {0: "NO", 1: "no"}, "model")


def test_a_head_with_more_outputs_than_the_data_has_labels_wants_them_all(
    bert_folder, table_files, tmp_path
) -> None:
    spec = classifier(bert_folder, tmp_path, "right", "between", "left")
    with pytest.raises(InputError, match=r"3 outputs, named \['right', 'between', 'left'\]"):
        classification(table_files).load_model(spec, 0)
    task = classification(table_files, labels=["right", "between", "left"])
    assert task.load_model(spec, 0).module.config.num_labels == 3


@pytest.mark.parametrize(
    "options", [{"labels": ["left", "left"]}, {"positive": "left"}, {"labels": [None, "left"]}]
)
def test_options_that_contradict_each_other_are_refused(table_files, options) -> None:
    with pytest.raises(ValidationError, match=r"labels|positive"):
        classification(table_files, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Of right, the second: one found rightly, none wrongly, one missed.
        ({}, 2 / 3),
        # Of left: two found rightly, one wrongly, none missed.
        ({"positive": "left"}, 4 / 5),
        ({"labels": ["right", "left"]}, 2 / 3),
        ({"labels": ["right", "left"], "positive": "left"}, 4 / 5),
    ],
)
def test_f1_is_of_the_second_label_or_the_one_that_is_named(
    table_files, options: dict[str, object], expected: float
) -> None:
    task = classification(table_files, metric="f1", **options)
    left, right = (task.labels.index(label) for label in ("left", "right"))
    labels = torch.tensor([left, left, right, right])
    logits = torch.nn.functional.one_hot(torch.tensor([left, left, right, left]), 2).float()
    metrics = task.summarise(task.score(logits, {"labels": labels}))
    assert metrics["f1"].value == pytest.approx(expected)
    assert metrics["accuracy"].value == 0.75


def test_f1_of_more_than_two_labels_is_refused(table_files, tmp_path) -> None:
    (tmp_path / "three.tsv").write_text("text\tlabel\nw1\ta\nw2\tb\nw3\tc\n")
    with pytest.raises(InputError, match="f1 needs two labels; the data has 3"):
        classification((tmp_path / "three.tsv", table_files[1]), metric="f1").labels  # noqa: B018


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": ["up", "left"]}, r"\['up', 'left'\].*lacks \['right'\]"),
        ({"metric": "f1", "positive": "up"}, r"'up' is not a label.*\['left', 'right'\]"),
    ],
)
def test_labels_that_the_data_has_otherwise_are_refused(table_files, options, said) -> None:
    with pytest.raises(InputError, match=said):
        classification(table_files, **options).labels  # noqa: B018
