"""What ``qsearch check --format gguf`` refuses, and what it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qsearch_coalora.export import gguf_space
from qsearch_coalora.export.formats import GGUFExporter
from qsearch_coalora.export.llama_tokens import TEXTS
from qsearch_coalora.models.loading import load_shape
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.errors import InputError
from qsearch.plugins.components import space_of
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import classification, small_tokenizer
from tests.coalora.export.small_models import of_bytes, save_model, write_float

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen2", tmp_path_factory.mktemp("qwen2"))


def checked(folder: Path, **options: Any) -> list[str]:
    """The notes on the space of integers over a model's layers."""
    model = ModelSpec(name=str(folder))
    quantizer = Integer(Integer.Options(**{"bits": (4, 8), "group_size": (32,)} | options))
    space = space_of(quantizer, load_shape(model)[0].layers)
    return GGUFExporter().require_space(model, quantizer, space)


def test_what_llama_cpp_runs_passes(folder: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    assert checked(folder) == []


def test_without_llama_cpp_it_is_said_that_tokens_were_not_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_space, "is_installed", lambda: False)
    (note,) = checked(folder)
    assert "install the extra gguf" in note


def test_text_in_scripts_that_llama_cpp_cuts_otherwise_is_told(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    save_model("llama", tmp_path, vocab_size=1024)
    (tmp_path / "tokenizer.json").unlink()
    of_bytes("tekken", size=1024, texts=TEXTS).save_pretrained(tmp_path)
    (note,) = checked(tmp_path)
    assert "llama.cpp makes other tokens than the tokenizer of 'ภาษาไทย हिन्दी" in note


def test_what_transformers_does_not_read_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "llama3.gguf"
    write_float(save_model("llama", tmp_path), path)
    (note,) = checked(path)
    assert "reads no factors of the rotary embedding (rope_freqs.weight)" in note


def test_choices_without_a_type_are_refused_with_a_layer(folder: Path) -> None:
    message = (
        r"no type that holds layer 'layers\.0\.self_attn\.q_proj' exactly with"
        r" \{'bits': 3, 'group_size': 32\}, and so with 13 more layers; .* leave such choices out"
    )
    with pytest.raises(InputError, match=message):
        checked(folder, bits=(3, 4))


def test_an_architecture_that_llama_cpp_lacks_is_refused_with_layers(bert_folder: Path) -> None:
    message = (
        r"models of type 'bert' are not among those.*\(the study's 12 layers:"
        r" encoder\.layer\.0\.attention\.self\.query, encoder\.layer\.0"
    )
    with pytest.raises(InputError, match=message):
        checked(bert_folder)


def test_a_file_without_a_layers_tensor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "llama.gguf"
    write_float(save_model("llama", tmp_path), path)
    checked(path)
    own = gguf.GGUFReader

    def without_keys(path: Path) -> Any:
        reader = own(path)
        reader.tensors = [one for one in reader.tensors if "attn_k" not in one.name]
        return reader

    monkeypatch.setattr(gguf, "GGUFReader", without_keys)
    with pytest.raises(
        InputError, match=r"no tensor of layer 'model\.layers\.0\.self_attn\.k_proj'"
    ):
        checked(path)


def test_a_task_whose_model_has_another_head_is_refused(table_files, make_causal_task) -> None:
    GGUFExporter().require_task(make_causal_task())
    with pytest.raises(InputError, match="task 'classification' loads another model"):
        GGUFExporter().require_task(classification(table_files))


def test_a_tokenizer_that_no_file_expresses_is_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    small_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokenizer cannot be expressed in a GGUF file"):
        checked(tmp_path)


def test_a_tokenizer_of_which_llama_cpp_makes_other_tokens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    save_model("llama", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    of_bytes("smollm").save_pretrained(tmp_path)
    taken = gguf_space.vocabulary_of

    def mistaken(tokenizer: Any, size: int, format: str) -> Any:
        return taken(of_bytes("gpt-2"), size, format)

    monkeypatch.setattr(gguf_space, "vocabulary_of", mistaken)
    with pytest.raises(InputError, match="make different tokens of"):
        checked(tmp_path)
