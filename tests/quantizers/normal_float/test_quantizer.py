"""Normal float: levels, codes and two-level scales."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.normal_float import blocks
from qsearch_quantizers.normal_float.blocks import nf_decode, nf_encode
from qsearch_quantizers.normal_float.levels import (
    encode,
    group_levels,
    level_table,
    normal_float_levels,
)
from qsearch_quantizers.normal_float.nf4_operator import nf4_operator
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.bit_packing import pack
from scipy.stats import norm

from qsearch.space.configuration import LayerConfiguration

CPU = torch.device("cpu")
QUANTIZER = NormalFloat(NormalFloat.Options())
CHOICES = QUANTIZER.choices()


def layer_configuration(**changes):
    values = {
        "bits": 4,
        "scale_bits": 8,
        "scale_dtype": "float32",
        "block_size": 64,
        "scale_block_size": 64,
    }
    return LayerConfiguration({**values, **changes})


def normal(*shape, seed=0):
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(weight, configuration):
    restored = QUANTIZER.dequantize(QUANTIZER.quantize(weight, configuration))
    return float((restored - weight).norm() / weight.norm())


def test_knobs_are_those_of_the_design_in_order():
    assert [(knob.name, knob.values) for knob in CHOICES.knobs] == [
        ("bits", (2, 3, 4, 8)),
        ("scale_bits", (2, 3, 4, 8)),
        ("scale_dtype", ("bfloat16", "float16", "float32")),
        ("block_size", (16, 32, 64)),
        ("scale_block_size", (16, 64, 256)),
    ]


def test_options_restrict_knobs_and_keep_the_order_of_the_design():
    choices = NormalFloat(NormalFloat.Options.model_validate({"bits": [4, 2]})).choices()
    assert choices.knobs[0].values == (2, 4)


@pytest.mark.parametrize(
    "options",
    [{"bits": []}, {"bits": [5]}, {"bits": [2, 2]}, {"scale_dtype": ["float64"]}, {"bit": [2]}],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        NormalFloat.Options.model_validate(options)


def test_four_bit_levels_are_the_nf4_table_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(normal_float_levels(4), functional.get_4bit_type("nf4", device="cpu"))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_levels_hold_one_more_positive_than_negative_and_span_one(bits):
    levels = normal_float_levels(bits)
    assert levels.numel() == 2**bits
    assert (levels.diff() > 0).all()
    assert (levels[0], levels[-1]) == (-1, 1)
    assert int((levels < 0).sum()) == 2 ** (bits - 1) - 1
    assert int((levels == 0).sum()) == 1


def test_two_bit_levels_are_the_quantiles_of_the_definition():
    # QLoRA's construction at 2 bits: positive quantiles at .9677083 and the middle to ½
    middle = norm.ppf((0.9677083 + 0.5) / 2) / norm.ppf(0.9677083)
    assert normal_float_levels(2).tolist() == pytest.approx([-1, 0, middle, 1], abs=1e-6)


@pytest.mark.parametrize("size", [4096, 64 * 37])
def test_codes_with_float32_scales_are_those_of_bitsandbytes(size):
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal(97, size, seed=1)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, absmax = nf_encode(weight, 4, 64)
    assert torch.equal(codes, packed.view(-1))
    assert torch.equal(absmax, state.absmax)


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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_process_default_type_changes_nothing(dtype):
    weight = normal(24, 96)
    chosen = [layer_configuration(bits=bits) for bits in (2, 3, 4, 8)]
    expected = [QUANTIZER.dequantize(QUANTIZER.quantize(weight, one)) for one in chosen]
    level_table.cache_clear()
    group_levels.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        found = [QUANTIZER.dequantize(QUANTIZER.quantize(weight, one)) for one in chosen]
    finally:
        torch.set_default_dtype(torch.float32)
        level_table.cache_clear()
        group_levels.cache_clear()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_two_level_scales_of_eight_bits_do_not_cost_accuracy(bits):
    weight = normal(128, 256)
    one_level = nf_decode(*nf_encode(weight, bits, 64), bits, 64, (128, 256))
    reference = float((one_level - weight).norm() / weight.norm())
    assert relative_error(weight, layer_configuration(bits=bits)) <= 1.01 * reference


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 90),
    index=st.integers(0, CHOICES.size - 1),
    magnitude=st.sampled_from([1e-30, 1e-8, 1e-3, 1.0, 1e4, 1e30]),
)
@settings(max_examples=100, deadline=None)
def test_any_shape_keeps_the_sign_and_magnitude_of_weights(rows, columns, index, magnitude):
    weight = normal(rows, columns, seed=rows) * magnitude
    configuration = CHOICES.layer_configuration(index)
    quantized = QUANTIZER.quantize(weight, configuration)
    restored = QUANTIZER.dequantize(quantized)
    layout = QUANTIZER.layout((rows, columns), configuration)
    assert {k: (v.shape, v.dtype) for k, v in quantized.tensors.items()} == {
        k: (torch.Size(v.shape), v.dtype) for k, v in layout.items()
    }
    assert restored.isfinite().all()
    assert (restored * weight >= 0).all()
    if magnitude in (1e-3, 1.0, 1e4):
        # A scale is no smaller than its dtype's smallest normal number, 6e-5 for float16.
        dtype = quantized.tensors["scales"].dtype
        largest = max(1.01 * weight.abs().max(), torch.finfo(dtype).smallest_normal)
        assert restored.abs().max() <= largest
        assert restored.abs().max() >= 0.3 * weight.abs().max()


def test_an_outlier_survives_and_spoils_only_its_scale_block():
    configuration = layer_configuration(block_size=16, scale_block_size=16, scale_bits=2)
    weight = normal(4, 256)
    spoilt = weight.clone()
    spoilt[0, 0] = 1000.0
    clean = QUANTIZER.dequantize(QUANTIZER.quantize(weight, configuration))
    restored = QUANTIZER.dequantize(QUANTIZER.quantize(spoilt, configuration))
    assert restored[0, 0] == 1000.0
    assert torch.equal(restored[1:], clean[1:])


def test_a_weight_larger_than_a_chunk_equals_its_parts():
    configuration = layer_configuration(scale_block_size=16)
    weight = normal(1100, 1024)
    whole = QUANTIZER.dequantize(QUANTIZER.quantize(weight, configuration))
    part = QUANTIZER.dequantize(QUANTIZER.quantize(weight[1000:], configuration))
    assert torch.equal(whole[1000:], part)


def test_storage_bits_at_the_ends_of_the_space():
    # design, section 7: from 2.03 (b0=2, b1=2, bfloat16, 64, 256) to 8.6
    every = [QUANTIZER.storage_bits(c) for c in CHOICES.layer_configurations]
    assert min(every) == 2 + 2 / 64 + 16 / (64 * 256)
    assert min(every) == pytest.approx(2.03, abs=0.005)
    assert max(every) == 8 + 8 / 16 + 32 / (16 * 16) == 8.625
