"""Digests of models and examples: equal for equal ones, and such that anyone can compute them."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qsearch_coalora.models.digests import model_files
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification

from qsearch.plugins.digests import ExamplesDigest
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import WORDS, small_tokenizer, write_rows


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digests(**options: Any) -> dict[str, ExamplesDigest]:
    """The digests of a classification whose data are prepared."""
    task = Classification(Classification.Options(**options))
    task.prepare(small_tokenizer())
    return task.data_digests()


def rows_of(path: Path) -> list[list[str]]:
    """Text and label of each row of a table."""
    with path.open() as stream:
        return [list(row) for row in csv.reader(stream, delimiter="\t")][1:]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "train": write_rows(tmp_path / "train.tsv", 12, 0),
        "validation": write_rows(tmp_path / "validation.tsv", 6, 1),
    }


# Labelled texts


def test_the_digest_of_texts_is_that_of_their_lines_of_json(files: dict[str, Path]) -> None:
    expected = {}
    for split, path in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows_of(path)).encode()
        expected[split] = ExamplesDigest(
            len(rows_of(path)), sha256(lines), sha256(path.read_bytes())
        )
    assert digests(**files) == expected


@pytest.mark.parametrize("kind", ["another kind of file", "a data set"])
def test_the_same_texts_from_elsewhere_have_the_same_digest(
    kind: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, path in files.items():
        rows = [{"label": label, "text": text, "more": 1} for text, label in rows_of(path)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options: Any = {split: tmp_path / f"{split}.jsonl" for split in files}
    if kind == "a data set":
        pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        names = {split: path.name for split, path in options.items()}
        options = {"dataset": {"name": str(tmp_path), "files": names}}
    other, first = digests(**options)["train"], digests(**files)["train"]
    assert (other.sha256, other.count) == (first.sha256, first.count)
    assert other.file_sha256 != first.file_sha256
    assert (other.file_sha256 is None) == (kind == "a data set")


@pytest.mark.parametrize("change", ["a label", "a text", "the order", "a subset"])
def test_other_examples_have_another_digest(
    change: str, files: dict[str, Path], tmp_path: Path
) -> None:
    (text, label), *rest = rows_of(files["train"])
    rows = {
        "a label": [[text, {"left": "right", "right": "left"}[label]], *rest],
        "a text": [[f"{text} w1", label], *rest],
        "the order": [*rest, [text, label]],
    }.get(change, [[text, label], *rest])
    other = tmp_path / "other.tsv"
    other.write_text("\n".join(map("\t".join, [["text", "label"], *rows])))
    limit = 11 if change == "a subset" else None
    first, second = digests(**files), digests(**files | {"train": other}, train_examples=limit)
    assert second["train"].sha256 != first["train"].sha256
    assert second["validation"] == first["validation"]


# Packed text


def test_the_digest_of_packed_text_is_that_of_its_tokens(tmp_path: Path) -> None:
    paths = [tmp_path / "train.txt", tmp_path / "validation.txt"]
    for path in paths:
        path.write_text(" ".join(random.Random(path.name).choices(WORDS, k=100)))
    options = CausalLanguageModelling.Options(train=paths[0], validation=paths[1], length=8)
    task, tokenizer = CausalLanguageModelling(options), small_tokenizer()
    task.prepare(tokenizer)
    for path, digest in zip(paths, task.data_digests().values(), strict=True):
        tokens = tokenizer(path.read_text(), add_special_tokens=False)["input_ids"][:96]
        packed = np.array(tokens, dtype="<i8").tobytes()
        assert digest == ExamplesDigest(12, sha256(packed), sha256(path.read_bytes()))


# Models


def test_a_trainer_has_the_digests_of_its_model_and_examples_whatever_was_trained(
    make_trainer: Any, make_configuration: Any, bert_folder: Path
) -> None:
    trainer = make_trainer()
    inputs = trainer.input_digests()
    names = ("model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json")
    assert inputs.model == {name: sha256((bert_folder / name).read_bytes()) for name in names}
    counts = {split: digest.count for split, digest in inputs.data.items()}
    assert counts == {"train": 96, "validation": 40}
    trainer.train([make_configuration(trainer, 0)], round=1)
    del vars(trainer.study)["model_digests"]
    assert trainer.input_digests() == inputs


INDEX = '{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}'
WHOLE = ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "used", "others"),
    [
        # Of several, transformers takes the first of its own order.
        ("", ["model.safetensors", *WHOLE], ["pytorch_model.bin", "vocab.json"]),
        ("", ["pytorch_model.bin", *WHOLE], ["merges.txt"]),
        (
            "",
            ["model-1.safetensors", "model-2.safetensors", *WHOLE],
            ["model.safetensors.index.json"],
        ),
        ("", ["config.json", "vocab.json", "merges.txt"], []),
        ("model.gguf", ["model.gguf"], WHOLE),  # It has settings and tokenizer in it.
    ],
)
def test_digests_are_of_the_files_that_are_loaded(
    name: str, used: list[str], others: list[str], tmp_path: Path
) -> None:
    for file in (*used, *others):
        (tmp_path / file).write_text(INDEX if "index" in file else "{}")
    spec = ModelSpec(name=str(tmp_path / name))
    assert {path.name for path in model_files(spec)} == set(used)


def test_a_model_that_is_on_the_hub_alone_has_no_files_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_files(ModelSpec(name="nobody/nothing")) == ()
