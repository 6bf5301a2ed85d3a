"""Normal float: levels, codes and two-level scales."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_quantizers.normal_float import blocks
from qsearch_quantizers.normal_float.blocks import nf_decode
from qsearch_quantizers.normal_float.levels import (
    encode,
    group_levels,
    level_table,
    normal_float_levels,
)
from qsearch_quantizers.normal_float.nf4_operator import nf4_operator
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.bit_packing import pack

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, relative_error, round_trip

CPU = torch.device("cpu")
QUANTIZER = NormalFloat(NormalFloat.Options())
CHOICES = QUANTIZER.choices()
BITS = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def layer_configuration(**changes):
    values = {
        "bits": 4,
        "scale_bits": 8,
        "scale_dtype": "float32",
        "block_size": 64,
        "scale_block_size": 64,
    }
    return LayerConfiguration({**values, **changes})


def one_level(weight, bits):
    """Codes and float32 scales of blocks of 64, as QLoRA without double quantization."""
    groups = weight.view(-1, 64)
    maxima = groups.abs().amax(dim=1, keepdim=True)
    scaled = (groups * maxima.reciprocal()).clamp(-1, 1)
    return encode(scaled, level_table(bits, CPU)), maxima


def test_four_bit_levels_are_the_nf4_table_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(normal_float_levels(4), functional.get_4bit_type("nf4", device="cpu"))


@BITS
def test_levels_hold_one_more_positive_than_negative_and_span_one(bits):
    levels = normal_float_levels(bits)
    assert levels.numel() == 2**bits
    assert (levels.diff() > 0).all()
    assert (levels[0], levels[-1]) == (-1, 1)
    assert int((levels < 0).sum()) == 2 ** (bits - 1) - 1
    assert int((levels == 0).sum()) == 1


@pytest.mark.parametrize("size", [4096, 64 * 37])
def test_codes_with_float32_scales_are_those_of_bitsandbytes(size):
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal_weight(97, size, seed=1)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, maxima = one_level(weight, 4)
    assert torch.equal(codes.view(-1, 2), torch.cat([packed >> 4, packed & 15], dim=1))
    assert torch.equal(maxima.view(-1), state.absmax)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_encoding_is_exactly_nearest_level_by_bisection(bits):
    levels = normal_float_levels(bits)
    midpoints = (levels[1:] + levels[:-1]) / 2
    around = [midpoints, midpoints.nextafter(torch.tensor(2.0)), midpoints.nextafter(-levels[-1:])]
    values = torch.cat([*around, levels, torch.linspace(-1, 1, 10_001)])
    expected = torch.bucketize(values, midpoints).to(torch.uint8)
    assert torch.equal(encode(values, level_table(bits, CPU)), expected)


@pytest.fixture(params=[True, False], ids=["with bitsandbytes", "without"])
def operator(request, monkeypatch):
    """Once with bitsandbytes' operator for 4 bits, once without."""
    if request.param:
        pytest.importorskip("bitsandbytes")
        assert nf4_operator(CPU) is not None
    else:
        monkeypatch.setattr(blocks, "nf4_operator", lambda device: None)


@BITS
@pytest.mark.parametrize("shape", [(3, 64), (5, 7), (16, 1), (1100, 1024)])
def test_decoding_packed_codes_multiplies_the_level_of_each_by_its_scale(bits, shape, operator):
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    scales = torch.rand(-(-codes.numel() // 16))
    expected = normal_float_levels(bits)[codes.long().view(-1)]
    expected = expected * scales.repeat_interleave(16)[: codes.numel()]
    packed = pack(codes, bits)
    if bits == 4:  # The first code of a byte is in its high half.
        packed = packed >> 4 | packed << 4
    decoded = nf_decode(packed, scales, bits, 16, shape)
    assert torch.equal(decoded, expected.view(shape))


@BITS
def test_the_process_default_type_changes_nothing(bits):
    weight, layer = normal_weight(24, 96), layer_configuration(bits=bits)
    expected = round_trip(QUANTIZER, weight, layer)
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        level_table.cache_clear()
        group_levels.cache_clear()
        torch.set_default_dtype(dtype)
        try:
            assert torch.equal(round_trip(QUANTIZER, weight, layer), expected)
        finally:
            torch.set_default_dtype(torch.float32)


@BITS
def test_two_level_scales_of_eight_bits_do_not_cost_accuracy(bits):
    weight = normal_weight(128, 256)
    codes, maxima = one_level(weight, bits)
    off = (normal_float_levels(bits)[codes.long()] * maxima).view(weight.shape) - weight
    reference = float(off.norm() / weight.norm())
    assert relative_error(QUANTIZER, weight, layer_configuration(bits=bits)) <= 1.01 * reference


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 90),
    index=st.integers(0, CHOICES.size - 1),
    magnitude=st.sampled_from([1e-30, 1e-8, 1e-3, 1.0, 1e4, 1e30]),
)
def test_any_shape_keeps_the_sign_and_magnitude_of_weights(rows, columns, index, magnitude):
    weight = normal_weight(rows, columns, seed=rows) * magnitude
    quantized = QUANTIZER.quantize(weight, CHOICES.layer_configuration(index))
    restored = QUANTIZER.dequantize(quantized)
    assert restored.isfinite().all()
    assert (restored * weight >= 0).all()
    if magnitude in (1e-3, 1.0, 1e4):
        # A scale is no smaller than its dtype's smallest normal number, 6e-5 for float16.
        dtype = quantized.tensors["scales"].dtype
        largest = max(1.01 * weight.abs().max(), torch.finfo(dtype).smallest_normal)
        assert restored.abs().max() <= largest
        assert restored.abs().max() >= 0.3 * weight.abs().max()


def test_an_outlier_survives_and_spoils_only_its_scale_block():
    layer = layer_configuration(block_size=16, scale_block_size=16, scale_bits=2)
    weight = normal_weight(4, 256)
    clean = round_trip(QUANTIZER, weight, layer)
    weight[0, 0] = 1000.0
    restored = round_trip(QUANTIZER, weight, layer)
    assert restored[0, 0] == 1000.0
    assert torch.equal(restored[1:], clean[1:])


def test_a_weight_larger_than_a_chunk_equals_its_parts():
    layer = layer_configuration(scale_block_size=16)
    weight = normal_weight(1100, 1024)
    whole = round_trip(QUANTIZER, weight, layer)
    assert torch.equal(whole[1000:], round_trip(QUANTIZER, weight[1000:], layer))
