"""ggml's types: their sizes, and weights that are those of llama.cpp to the byte."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from qsearch_quantizers.gguf import ggml_library
from qsearch_quantizers.gguf.ggml_types import TYPES, GGMLType
from qsearch_quantizers.gguf.quantizer import DEFAULT, GGUF
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

EVERY = GGUF(GGUF.Options(types=tuple(TYPES)))
"""The quantizer with all types, which suits weights to inputs."""


def of_type(name: str) -> LayerConfiguration:
    return LayerConfiguration({"type": name})


def importance(columns: int) -> Tensor:
    """Mean squares of inputs of unlike sizes (columns)."""
    return normal_weight(1, columns, std=1.0, seed=7)[0].exp()


def blocks(weight: Tensor, name: str) -> Tensor:
    moment = torch.diag(importance(weight.shape[1]))
    return EVERY.quantize_for_inputs(weight, of_type(name), moment).tensors["blocks"]


def test_bits_per_weight_are_ggmls_own() -> None:
    # ggml-common.h: the static assertions on the sizes of blocks; the README of llama-quantize.
    assert {name: one.bits for name, one in TYPES.items()} == {
        "IQ2_XXS": 2.0625,
        "IQ2_XS": 2.3125,
        "IQ2_S": 2.5625,
        "Q2_K": 2.625,
        "IQ3_XXS": 3.0625,
        "Q3_K": 3.4375,
        "IQ3_S": 3.4375,
        "MXFP4": 4.25,
        "IQ4_XS": 4.25,
        "Q4_0": 4.5,
        "IQ4_NL": 4.5,
        "Q4_K": 4.5,
        "Q4_1": 5.0,
        "Q5_0": 5.5,
        "Q5_K": 5.5,
        "Q5_1": 6.0,
        "Q6_K": 6.5625,
        "Q8_0": 8.5,
    }


def test_numbers_and_blocks_are_those_of_gguf_files() -> None:
    for name, one in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (one.number, (one.block, one.nbytes)) == (int(kind), gguf.GGML_QUANT_SIZES[kind])


SLOW = ("IQ2_XS", "IQ2_S")
"""Types with which ggml begins to quantize after many seconds."""
QUICK = tuple(name for name in TYPES if name not in SLOW)


def any_blocks(kind: GGMLType) -> Tensor:
    """Blocks of arbitrary bytes after a scale, float16."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(256, (4, 2, kind.nbytes), generator=generator, dtype=torch.uint8)
    drawn[..., :2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
    return drawn.view(4, -1)


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_what_the_package_gguf_dequantizes_to_the_bit(name: str) -> None:
    stored = any_blocks(TYPES[name]) if name in SLOW else blocks(normal_weight(4, 512), name)
    expected = gguf.quants.dequantize(stored.numpy(), gguf.GGMLQuantizationType[name])
    weight = ggml_library.dequantize_rows(TYPES[name], stored)
    np.testing.assert_array_equal(weight.numpy(), expected)


WIDE, NARROW, ODD = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"
WEIGHTS = {
    WIDE: normal_weight(8, 512, seed=1),
    NARROW: normal_weight(8, 96, seed=2),
    ODD: normal_weight(8, 72, seed=3),
}
"""Rows of whole blocks of 256, of whole blocks of 32, and of neither."""


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights as float32 in a GGUF file, which llama.cpp quantizes and does not run."""
    path = tmp_path_factory.mktemp("float") / "float.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
        writer.add_uint32(f"llama.{name}", 1)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name, weight in WEIGHTS.items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PRESETS = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "MXFP4": "MXFP4_MOE"}
"""llama.cpp's presets whose own type has another name."""

QUANTIZED = ("IQ2_XXS", "Q2_K", "IQ3_XXS", "Q3_K", "IQ3_S", "MXFP4", "IQ4_XS", "Q4_0", "IQ4_NL")
QUANTIZED += ("Q4_K", "Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0")


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_are_those_of_llama_quantize_to_the_byte(
    float_file: Path, tmp_path: Path, name: str
) -> None:
    quantized = llama_quantize(float_file, tmp_path / "out.gguf", PRESETS.get(name, name))
    for tensor, weight in WEIGHTS.items():
        kind, expected = quantized[tensor]
        shape = (weight.shape[0], weight.shape[1])
        assert EVERY.ggml_type(shape, of_type(name)) == kind
        assert torch.equal(blocks(weight, name), torch.from_numpy(expected))
        assert EVERY.storage_bits_of(shape, of_type(name)) == 8 * expected.size / weight.numel()
        assert EVERY.takes(shape, of_type(name)) == (kind == name)


def llama_quantize(source: Path, target: Path, preset: str) -> Mapping[str, tuple[str, Any]]:
    """Have llama.cpp quantize a file by an importance matrix; return each tensor's type and bytes.

    It is the matrix of :func:`importance`.
    """
    from benchmarks.llama_quantize import quantize  # It imports gguf.

    matrix = {name: importance(weight.shape[1]).numpy() for name, weight in WEIGHTS.items()}
    quantize(source, target, preset, matrix, pure=True)
    reader = gguf.GGUFReader(target)
    return {
        one.name: (one.tensor_type.name, one.data.view(np.uint8).copy()) for one in reader.tensors
    }


def test_inputs_count_relative_to_one_another() -> None:
    weight, squares = normal_weight(4, 512), torch.diag(importance(512))
    for name in QUICK:
        expected = EVERY.quantize_for_inputs(weight, of_type(name), squares).tensors["blocks"]
        for factor in (2.0**-90, 2.0**90):
            scaled = EVERY.quantize_for_inputs(weight, of_type(name), factor * squares)
            assert torch.equal(scaled.tensors["blocks"], expected)


def test_a_diagonal_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"tensor of shape \(256,\), not of shape \(64,\)"):
        EVERY.quantize_for_inputs(normal_weight(4, 256), of_type("Q4_K"), torch.ones(64))


def test_inputs_that_were_always_zero_count_all_the_same() -> None:
    plain = GGUF(GGUF.Options(types=tuple(TYPES), importance="none"))
    weight = normal_weight(4, 512)
    for name in QUICK:
        quantized = EVERY.quantize_for_inputs(weight, of_type(name), torch.zeros(512, 512))
        expected = plain.quantize(weight, of_type(name)).tensors["blocks"]
        assert torch.equal(quantized.tensors["blocks"], expected)


def test_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal_weight(64, 512)
    expected = {name: blocks(weight, name) for name in ("Q4_K", "IQ4_NL", "Q8_0")}
    monkeypatch.setattr(ggml_library, "_ROWS", 3 * 512)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, stored in expected.items():
        assert torch.equal(blocks(weight, name), stored)


def test_without_inputs_a_quantizer_that_needs_them_refuses() -> None:
    with pytest.raises(InputError, match=r"quantizer\.importance 'inputs' needs the second moment"):
        EVERY.quantize(normal_weight(2, 256), of_type("Q4_K"))


def test_weights_beyond_what_scales_of_float16_hold_are_refused() -> None:
    weight = normal_weight(2, 256)
    weight[1, 3] = 20_000
    with pytest.raises(InputError, match=r"shape \(2, 256\) holds values beyond ±16384"):
        blocks(weight, "Q4_K")


def test_types_are_a_knob_by_rising_bits() -> None:
    (knob,) = GGUF(GGUF.Options(types=("Q8_0", "Q2_K", "Q4_0"))).choices().knobs
    assert (knob.name, knob.values) == ("type", ("Q2_K", "Q4_0", "Q8_0"))
    rising = [TYPES[name].bits for name in TYPES]
    assert rising == sorted(rising)
    assert [name for name in TYPES if name in DEFAULT] == list(DEFAULT)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("types", []),
        ("types", ["Q4_0", "Q4_0"]),
        ("types", ["Q4_K_M"]),
        ("types", ["q4_0"]),
        ("importance", "all"),
    ],
)
def test_wrong_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=option):
        GGUF.Options.model_validate({option: value})


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml_library._library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp_py_sync", None)
    with pytest.raises(InputError, match=r"quantizer 'gguf' needs .*qsearch-llm\[gguf\]"):
        EVERY.require_installed()


def test_a_package_without_ggml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ggml_library._library.cache_clear()
    package = ModuleType("llama_cpp_py_sync")
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "llama_cpp_py_sync", package)
    with pytest.raises(InputError, match="has no library of ggml"):
        EVERY.require_installed()
