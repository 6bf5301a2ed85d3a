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
from qsearch_coalora.models.digests import settings_files, weight_files
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.docstrings import DocstringSource, collect_docstrings
from transformers import AutoModel, AutoTokenizer

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
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_rows(tmp_path / "train.tsv", 12, 0), write_rows(tmp_path / "valid.tsv", 6, 1)


# Labelled texts


def test_the_digest_of_texts_is_that_of_their_lines_of_json(files: tuple[Path, Path]) -> None:
    found = digests(train=files[0], validation=files[1])
    assert list(found) == ["train", "validation"]
    for path, digest in zip(files, found.values(), strict=True):
        rows = rows_of(path)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        assert digest == ExamplesDigest(
            len(rows), sha256(lines.encode()), sha256(path.read_bytes())
        )


def test_the_same_texts_in_another_kind_of_file_have_the_same_digest(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "train.jsonl"
    rows = [{"label": label, "text": text, "more": 1} for text, label in rows_of(files[0])]
    other.write_text("\n".join(json.dumps(row) for row in rows))
    first = digests(train=files[0], validation=files[1])["train"]
    second = digests(train=other, validation=files[1])["train"]
    assert second.sha256 == first.sha256
    assert second.file_sha256 != first.file_sha256


@pytest.mark.parametrize("change", ["a label", "a text", "the order", "a row less"])
def test_other_examples_have_another_digest(
    change: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = rows_of(files[0])
    if change == "a label":
        rows[0][1] = "left" if rows[0][1] == "right" else "right"
    elif change == "a text":
        rows[0][0] += " w1"
    elif change == "the order":
        rows.reverse()
    else:
        rows.pop()
    other = tmp_path / "other.tsv"
    other.write_text("\n".join("\t".join(row) for row in [["text", "label"], *rows]) + "\n")
    first, second = (digests(train=path, validation=files[1]) for path in (files[0], other))
    assert second["train"].sha256 != first["train"].sha256
    assert second["validation"] == first["validation"]


def test_a_subset_has_its_own_digest(files: tuple[Path, Path]) -> None:
    whole = digests(train=files[0], validation=files[1])["train"]
    subset = digests(train=files[0], validation=files[1], train_examples=11)["train"]
    assert (whole.count, subset.count) == (12, 11)
    assert subset.sha256 != whole.sha256
    assert subset.file_sha256 == whole.file_sha256


def test_examples_that_are_held_out_are_apart(files: tuple[Path, Path]) -> None:
    task = Classification(Classification.Options(train=files[0], validation=files[1]))
    task.hold_out(3)
    task.prepare(small_tokenizer())
    counts = {split: digest.count for split, digest in task.data_digests().items()}
    assert counts == {"train": 9, "held-out": 3, "validation": 6}


def test_a_data_set_has_the_digest_of_its_texts_and_no_file(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for name, path in zip(("train", "validation"), files, strict=True):
        rows = [json.dumps({"text": text, "label": label}) for text, label in rows_of(path)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    names = {name: f"{name}.jsonl" for name in ("train", "validation")}
    found = digests(dataset={"name": str(folder), "files": names})
    of_files = digests(train=files[0], validation=files[1])
    for split, digest in found.items():
        assert digest.sha256 == of_files[split].sha256
        assert digest.file_sha256 is None


def test_docstrings_have_a_digest_and_no_file() -> None:
    source = DocstringSource(packages=("torch", "numpy"), train_texts=4, validation_texts=4)
    found = digests(docstrings=source)["train"]
    lines = "".join(json.dumps(list(pair)) + "\n" for pair in collect_docstrings(source, "train"))
    assert found == ExamplesDigest(8, sha256(lines.encode()), None)


# Packed text


def test_the_digest_of_packed_text_is_that_of_its_tokens(tmp_path: Path) -> None:
    paths = [tmp_path / "train.txt", tmp_path / "validation.txt"]
    for path in paths:
        draw = random.Random(path.name)
        path.write_text(" ".join(draw.choices(WORDS, k=100)))
    options = CausalLanguageModelling.Options(train=paths[0], validation=paths[1], length=8)
    task = CausalLanguageModelling(options)
    tokenizer = small_tokenizer()
    task.prepare(tokenizer)
    for path, digest in zip(paths, task.data_digests().values(), strict=True):
        tokens = tokenizer(path.read_text(), add_special_tokens=False)["input_ids"][:96]
        packed = np.array(tokens, dtype="<i8").tobytes()
        assert digest == ExamplesDigest(12, sha256(packed), sha256(path.read_bytes()))


# Models


def test_a_trainer_tells_its_model_and_its_examples(make_trainer: Any, bert_folder: Path) -> None:
    inputs = make_trainer().input_digests()
    names = ("model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json")
    assert inputs.model == {name: sha256((bert_folder / name).read_bytes()) for name in names}
    assert {split: digest.count for split, digest in inputs.data.items()} == {
        "train": 96,
        "validation": 40,
    }


def test_digests_do_not_depend_on_what_was_trained(
    make_trainer: Any, make_configuration: Any
) -> None:
    trainer = make_trainer()
    before = trainer.input_digests()
    trainer.train([make_configuration(trainer, 0)], round=1)
    assert trainer.input_digests() == before


def test_a_task_that_does_not_tell_leaves_the_model_known(
    make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr("qsearch_coalora.models.digests.SupportsDataDigest", int)  # No task is one.
    inputs = trainer.input_digests()
    assert inputs.model
    assert inputs.data == {}


def test_weights_in_several_files_are_all_told(bert_folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(bert_folder)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    found = weight_files(ModelSpec(name=str(tmp_path)))
    assert len(found) > 1
    assert set(found) == set(tmp_path.glob("*.safetensors"))


def test_weights_are_those_of_the_file_that_is_loaded(bert_folder: Path, tmp_path: Path) -> None:
    """Of several, transformers takes the first of its own order."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert_folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"another copy")
    spec = ModelSpec(name=str(tmp_path))
    assert weight_files(spec) == (tmp_path / "model.safetensors",)
    (tmp_path / "model.safetensors").unlink()
    assert weight_files(spec) == (tmp_path / "pytorch_model.bin",)


def test_a_tokenizer_of_several_files_is_told_by_all_of_them(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    spec = ModelSpec(name=str(tmp_path))
    assert {path.name for path in settings_files(spec)} == {
        "config.json",
        "vocab.json",
        "merges.txt",
    }
    (tmp_path / "tokenizer.json").write_text("{}")
    assert {path.name for path in settings_files(spec)} == {"config.json", "tokenizer.json"}


def test_a_gguf_file_has_settings_and_tokenizer_in_it(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.gguf"):
        (tmp_path / name).write_text("{}")
    spec = ModelSpec(name=str(tmp_path / "model.gguf"))
    assert weight_files(spec) == (tmp_path / "model.gguf",)
    assert settings_files(spec) == ()


def test_a_model_that_is_on_the_hub_alone_has_no_files_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = ModelSpec(name="nobody/nothing")
    assert weight_files(spec) == settings_files(spec) == ()
