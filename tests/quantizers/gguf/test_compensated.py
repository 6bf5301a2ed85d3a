"""ggml's types rounded as GPTQ does, on the scales that ggml finds."""

from __future__ import annotations

import pytest
import torch
from qsearch_quantizers.gguf.compensated import CODES
from qsearch_quantizers.gguf.ggml_library import dequantize_rows
from qsearch_quantizers.gguf.ggml_types import TYPES
from qsearch_quantizers.gguf.quantizer import GGUF
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight
from tests.quantizers.moments import correlated_moment

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")


def quantized(weight: Tensor, name: str, moment: Tensor, **options: object) -> QuantizedTensor:
    quantizer = GGUF(GGUF.Options(types=(name,), **options))
    return quantizer.quantize_for_inputs(weight, LayerConfiguration({"type": name}), moment)


def moved(weight: Tensor, name: str, moment: Tensor, **options: object) -> float:
    """Return tr(E·H·Eᵀ)."""
    blocks = quantized(weight, name, moment, **options).tensors["blocks"]
    error = (weight - dequantize_rows(TYPES[name], blocks)).double()
    return float(((error @ moment.double()) * error).sum())


@pytest.mark.parametrize("name", CODES)
def test_codes_that_are_written_are_those_that_ggml_reads(name: str) -> None:
    kind, place = TYPES[name], CODES[name]
    codes = torch.randint(place.count, (6, 1, 32), dtype=torch.uint8)
    blocks = quantized(normal_weight(6, 32), name, torch.eye(32)).tensors["blocks"].clone()
    every = blocks.clone().view(6, 1, -1)
    place.write(every, torch.arange(32, dtype=torch.uint8).expand(6, 1, 32) % place.count)
    levels = dequantize_rows(kind, every.view(6, -1))[:, : place.count]
    written = blocks.view(6, 1, -1)
    place.write(written, codes)
    expected = levels.gather(1, codes[:, 0].long())
    assert torch.equal(dequantize_rows(kind, written.view(6, -1)), expected)
    assert len(levels[0].unique()) >= place.count - 1  # MXFP4 has two zeros.


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("fits", [False, True])
def test_outputs_move_less_than_by_ggml(name: str, fits: bool) -> None:
    weight, moment = normal_weight(24, 192), correlated_moment(192)
    options = {"fit_scales": fits}
    by_gptq = moved(weight, name, moment, rounding="gptq", **options)
    assert by_gptq < 0.8 * moved(weight, name, moment, rounding="ggml", **options)


@pytest.mark.parametrize("name", [*CODES, "Q8_0", "Q4_K", "Q2_K"])
def test_where_nothing_makes_up_for_an_error_the_bytes_are_ggmls(name: str) -> None:
    weight = normal_weight(8, 256)
    moment = torch.eye(256) if name in CODES else correlated_moment(256)
    by_gptq, own = (quantized(weight, name, moment, rounding=one) for one in ("gptq", "ggml"))
    assert torch.equal(by_gptq.tensors["blocks"], own.tensors["blocks"])


def test_rows_are_rounded_by_themselves() -> None:
    weight, moment = normal_weight(8, 96), correlated_moment(96)
    whole = quantized(weight, "IQ4_NL", moment, rounding="gptq").tensors["blocks"]
    some = quantized(weight[2:5], "IQ4_NL", moment, rounding="gptq").tensors["blocks"]
    assert torch.equal(whole[2:5], some)


def test_without_a_moment_it_is_refused() -> None:
    quantizer = GGUF(GGUF.Options(types=("Q4_0",), importance="none", rounding="gptq"))
    assert not quantizer.takes_diagonal
    with pytest.raises(InputError, match=r"quantizer\.rounding 'gptq' needs the second moment"):
        quantizer.quantize(normal_weight(4, 32), LayerConfiguration({"type": "Q4_0"}))
