"""Scales that follow from codes and a layer's inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qsearch_quantizers.fitted_scales import RIDGE, scale_factors
from qsearch_quantizers.gguf.fitted import fitted_blocks
from qsearch_quantizers.gguf.ggml_types import TYPES
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.comparison import assert_same_tensors
from qsearch.testing.samples import normal_weight
from tests.quantizers.moments import correlated_moment


def moved(weight: Tensor, quantized: Tensor, moment: Tensor) -> float:
    """Return tr(E·H·Eᵀ)."""
    error = (weight - quantized).double()
    return float(((error @ moment.double()) * error).sum())


def scaled(values: Tensor, factors: Tensor, group_size: int) -> Tensor:
    return values * factors.repeat_interleave(group_size, dim=1)[:, : values.shape[1]]


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 8),
    columns=st.integers(1, 100),
    group_size=st.sampled_from([1, 16, 32, 100]),
)
@settings(max_examples=30)
def test_true_scales_are_found_again(seed: int, rows: int, columns: int, group_size: int) -> None:
    values = normal_weight(rows, columns, seed=seed)
    groups = -(-columns // group_size)
    factors = 0.5 + torch.rand(rows, groups, generator=torch.Generator().manual_seed(seed))
    moment = correlated_moment(columns, seed) if group_size > 1 else torch.eye(columns)
    weight = scaled(values, factors, group_size)
    (found,) = scale_factors(weight, [values], moment, group_size, dampening=0.01)
    off = moved(weight, scaled(values, found, group_size), moment)
    assert off <= 10 * RIDGE * moved(weight, values, moment) + 1e-9


def test_factors_are_the_least_squares_solution_of_each_row() -> None:
    weight, values = normal_weight(3, 48, seed=1), normal_weight(3, 48, seed=2)
    moment = correlated_moment(48) + 0.1 * torch.eye(48)
    (found,) = scale_factors(weight, [values], moment, 16, dampening=1e-9)
    root = torch.linalg.cholesky(moment.double()).T
    for row in range(3):
        groups = torch.block_diag(*values[row].view(3, 16).double()) @ root.T
        expected = torch.linalg.lstsq(groups.T, root @ weight[row].double()).solution
        torch.testing.assert_close(found[row].double(), expected, rtol=5e-3, atol=5e-3)


def test_a_group_of_zeros_keeps_its_scale() -> None:
    weight, values = normal_weight(4, 64), normal_weight(4, 64, seed=1)
    values[:, :32] = 0
    values[3] = 0
    (found,) = scale_factors(weight, [values], correlated_moment(64), 32, dampening=0.01)
    assert found[:, 0].tolist() == [1.0] * 4
    assert found[3, 1] == 1


INTEGERS = {"bits": (2, 3, 4), "group_size": (32,), "scheme": ("symmetric", "asymmetric")}
LEVELS = {"scale_bits": (8,), "scale_dtype": ("float16",), "block_size": (32,)}


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("which", ["integer", "normal-float"])
def test_outputs_move_less_with_fitted_scales_and_codes_stay(which: str, rounding: str) -> None:
    weight, moment = normal_weight(32, 128), correlated_moment(128)
    kind, options = (Integer, INTEGERS) if which == "integer" else (NormalFloat, LEVELS)
    fitted, plain = (
        kind(kind.Options(**options, rounding=rounding, fit_scales=fits)) for fits in (True, False)
    )
    for chosen in fitted.choices().layer_configurations:
        own = fitted.quantize_for_inputs(weight, chosen, moment)
        other = (
            plain.quantize_for_inputs(weight, chosen, moment)
            if plain.needs_inputs
            else plain.quantize(weight, chosen)
        )
        assert torch.equal(own.tensors["codes"], other.tensors["codes"])
        off, without = (
            moved(weight, plain.dequantize(quantized), moment) for quantized in (own, other)
        )
        # With 8 bits, the scales are as coarse as the codes.
        assert off <= (1.0 if chosen["bits"] == 8 else 0.95) * without


def test_multiples_too_coarse_to_gain_stay_as_they_are() -> None:
    weight, moment = normal_weight(8, 64), torch.eye(64)
    options = {"bits": (8,), "scale_bits": (2,), "block_size": (64,), "scale_block_size": (16,)}
    fitted, plain = (
        NormalFloat(NormalFloat.Options(**options, fit_scales=fits)) for fits in (True, False)
    )
    chosen: LayerConfiguration = fitted.choices().layer_configurations[0]
    own = fitted.quantize_for_inputs(weight, chosen, moment)
    off, without = (
        moved(weight, plain.dequantize(quantized), moment)
        for quantized in (own, plain.quantize(weight, chosen))
    )
    assert off <= without


def test_blocks_that_go_on_in_the_next_row_keep_their_scales() -> None:
    weight, moment = normal_weight(8, 48), correlated_moment(48)
    fitted, plain = (
        NormalFloat(NormalFloat.Options(**LEVELS, fit_scales=fits)) for fits in (True, False)
    )
    chosen = fitted.choices().layer_configurations[0]
    own = fitted.quantize_for_inputs(weight, chosen, moment)
    assert_same_tensors(own.tensors, plain.quantize(weight, chosen).tensors, "tensors")


@pytest.mark.parametrize("kind", [Integer, NormalFloat])
def test_without_a_moment_it_is_refused(kind: type[Integer] | type[NormalFloat]) -> None:
    quantizer = kind(kind.Options(fit_scales=True))
    chosen = quantizer.choices().layer_configurations[0]
    with pytest.raises(InputError, match=r"quantizer\.fit_scales needs the second moment"):
        quantizer.quantize(normal_weight(4, 32), chosen)


GGML = tuple(name for name, one in TYPES.items() if one.scales)


@pytest.mark.parametrize("name", GGML)
def test_outputs_move_less_with_fitted_scales_of_ggml_s_types(name: str) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    weight, moment = normal_weight(16, 512), correlated_moment(512)
    chosen = LayerConfiguration({"type": name})
    off = []
    for fits in (True, False):
        quantizer = GGUF(GGUF.Options(types=(name,), fit_scales=fits))
        quantized = quantizer.quantize_for_inputs(weight, chosen, moment)
        off.append(moved(weight, quantizer.dequantize(quantized), moment))
    assert off[0] < off[1]


@pytest.mark.parametrize("name", [name for name in GGML if len(TYPES[name].scales) == 2])
def test_offsets_of_ggml_s_types_are_fitted_too(name: str) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    weight, moment = normal_weight(8, 256), torch.eye(256)
    chosen, kind = LayerConfiguration({"type": name}), TYPES[name]
    plain, fitted = (GGUF(GGUF.Options(types=(name,), fit_scales=fits)) for fits in (False, True))
    before = plain.quantize_for_inputs(weight, chosen, moment)
    # What is twice as far from zero by an offset of its own.
    shifted = plain.dequantize(before)
    blocks = before.tensors["blocks"].view(8, -1, kind.nbytes)
    place = slice(kind.scales[1], kind.scales[1] + 2)
    numbers = blocks[:, :, place].contiguous().view(torch.float16) * 2
    blocks[:, :, place] = numbers.view(torch.uint8)
    target = plain.dequantize(before)
    assert not torch.equal(target, shifted)
    numbers = blocks[:, :, place].contiguous().view(torch.float16) / 2
    blocks[:, :, place] = numbers.view(torch.uint8)
    found = fitted_blocks(kind, before.tensors["blocks"], target, moment, dampening=0.01)
    again = fitted.dequantize(replace(before, tensors={"blocks": found}))
    assert moved(target, again, moment) < 1e-3 * moved(target, shifted, moment)


def test_a_type_without_float16_scales_stays_as_it_is() -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    weight, moment = normal_weight(8, 64), correlated_moment(64)
    chosen = LayerConfiguration({"type": "MXFP4"})
    own, other = (
        GGUF(GGUF.Options(types=("MXFP4",), fit_scales=fits)).quantize_for_inputs(
            weight, chosen, moment
        )
        for fits in (True, False)
    )
    assert_same_tensors(own.tensors, other.tensors, "tensors")
