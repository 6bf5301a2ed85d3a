"""bitsandbytes quantizer: FP4, NF4, int8 by block, double quantization."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.bitsandbytes_quantizer import BitsAndBytes
from qsearch_quantizers.packing import packed_tensors, unpack_tensors

from qsearch.configuration import LayerConfiguration
from qsearch.errors import InputError
from qsearch.layout import PackableQuantizer
from qsearch.plugins import load_plugin

functional = pytest.importorskip("bitsandbytes.functional")

QUANTIZER = BitsAndBytes(BitsAndBytes.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)
FOUR_BITS = pytest.mark.parametrize("data_type", ["fp4", "nf4"])


def normal(*shape, seed=0):
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def configuration(data_type="nf4", block_size=64, scale_bits=32):
    return LayerConfiguration(
        {"data_type": data_type, "block_size": block_size, "scale_bits": scale_bits}
    )


def round_trip(weight, layer):
    return QUANTIZER.dequantize(QUANTIZER.quantize(weight, layer))


def error(weight, layer):
    return float((round_trip(weight, layer) - weight).norm() / weight.norm())


def test_it_is_the_plugin_called_bitsandbytes():
    assert load_plugin("quantizers", "bitsandbytes") is BitsAndBytes
    assert isinstance(QUANTIZER, PackableQuantizer)


def test_its_knobs_are_data_type_block_size_and_scale_bits():
    assert {knob.name: knob.values for knob in QUANTIZER.choices().knobs} == {
        "data_type": ("fp4", "nf4", "int8"),
        "block_size": (64, 128, 256, 512),
        "scale_bits": (8, 32),
    }


def test_options_restrict_knobs_and_keep_their_order():
    some = BitsAndBytes(BitsAndBytes.Options(data_type=("int8", "nf4"), block_size=(256, 64)))
    assert [knob.values for knob in some.choices().knobs] == [("nf4", "int8"), (64, 256), (8, 32)]


@pytest.mark.parametrize(
    "options", [{"data_type": ["int4"]}, {"block_size": []}, {"scale_bits": [8, 8]}, {"x": 1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        BitsAndBytes.Options.model_validate(options)


def test_storage_bits_count_absolute_maxima():
    assert QUANTIZER.storage_bits(configuration("nf4", 64)) == 4 + 32 / 64
    assert QUANTIZER.storage_bits(configuration("int8", 256)) == 8 + 32 / 256


def test_double_quantization_of_blocks_of_64_costs_0_127_bits():
    # QLoRA (arXiv:2305.14314), section 3: 8/64 + 32/(64·256) = 0.127 bits per parameter.
    bits = QUANTIZER.storage_bits(configuration("nf4", 64, 8))
    assert bits == 4 + 8 / 64 + 32 / (64 * 256)
    assert bits - 4 == pytest.approx(0.127, abs=5e-4)


@EVERY
def test_stored_bytes_agree_with_storage_bits(layer):
    weight = normal(256, 512)
    stored = packed_tensors(QUANTIZER.quantize(weight, layer), QUANTIZER)
    stored_bits = 8 * sum(tensor.nbytes for tensor in stored.values()) / weight.numel()
    assert stored_bits == pytest.approx(QUANTIZER.storage_bits(layer), rel=0.01)


@EVERY
@pytest.mark.parametrize("shape", [(16, 200), (5, 7)])
def test_packed_tensors_unpack_to_the_same_weight(layer, shape):
    quantized = QUANTIZER.quantize(normal(*shape), layer)
    again = unpack_tensors(packed_tensors(quantized, QUANTIZER), shape, layer, QUANTIZER)
    assert torch.equal(QUANTIZER.dequantize(again), QUANTIZER.dequantize(quantized))


@FOUR_BITS
@pytest.mark.parametrize("block_size", [64, 128, 256, 512])
def test_four_bits_are_those_of_bitsandbytes(data_type, block_size):
    weight = normal(64, 512)
    # As a vector, which bitsandbytes decodes rightly on every CPU.
    theirs = functional.quantize_4bit(weight.view(-1), blocksize=block_size, quant_type=data_type)
    restored = functional.dequantize_4bit(*theirs).view(weight.shape)
    assert torch.equal(round_trip(weight, configuration(data_type, block_size)), restored)


@FOUR_BITS
def test_double_quantization_is_that_of_bitsandbytes(data_type):
    weight = normal(128, 512)
    theirs = functional.quantize_4bit(
        weight.view(-1), blocksize=64, quant_type=data_type, compress_statistics=True
    )
    restored = functional.dequantize_4bit(*theirs).view(weight.shape)
    ours = round_trip(weight, configuration(data_type, 64, 8))
    torch.testing.assert_close(ours, restored, rtol=1e-5, atol=0.0)


def test_int8_is_blockwise_quantization_with_the_linear_map_of_bitsandbytes():
    weight = normal(64, 512)
    levels = functional.create_linear_map(signed=True, total_bits=8)
    codes, state = functional.quantize_blockwise(weight, code=levels, blocksize=128)
    restored = functional.dequantize_blockwise(codes, state)
    assert torch.equal(round_trip(weight, configuration("int8", 128)), restored)


def test_nf4_levels_are_restored_exactly():
    # The table of QLoRA (arXiv:2305.14314), appendix E.
    levels = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
    levels += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
    levels += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    levels += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    weight = 0.5 * torch.tensor(levels).repeat(4, 8)
    assert torch.equal(round_trip(weight, configuration("nf4", 128)), weight)


@FOUR_BITS
@pytest.mark.parametrize("shape", [(3, 32), (8, 48), (64, 16), (64, 32), (33, 96), (64, 320)])
def test_rows_that_are_no_whole_blocks_are_decoded_block_by_block(data_type, shape):
    # bitsandbytes 0.50 restarts the blocks at each row of such matrices on CPUs with AVX-512.
    weight, layer = normal(*shape), configuration(data_type, 128)
    quantized = QUANTIZER.quantize(weight, layer)
    packed = quantized.tensors["codes"]
    codes = torch.stack([packed >> 4, packed & 15], dim=1).view(-1).long()
    levels = functional.get_4bit_type(data_type, device="cpu")[codes]
    maxima = quantized.tensors["scales"].repeat_interleave(128)[: weight.numel()]
    torch.testing.assert_close(QUANTIZER.dequantize(quantized), (levels * maxima).view(shape))


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    layer=st.sampled_from(QUANTIZER.choices().layer_configurations),
)
@settings(max_examples=80, deadline=None)
def test_every_weight_is_near_in_any_shape(rows, columns, layer):
    weight = normal(rows, columns, seed=columns)
    quantized = QUANTIZER.quantize(weight, layer)
    restored = QUANTIZER.dequantize(quantized)
    layout = QUANTIZER.layout((rows, columns), layer)
    assert {k: (tuple(v.shape), v.dtype) for k, v in quantized.tensors.items()} == {
        k: (v.shape, v.dtype) for k, v in layout.items()
    }
    assert restored.shape == weight.shape
    assert restored.dtype == torch.float32
    # Half the widest gap between levels, as a part of the greatest weight; the rest is for
    # double quantization.
    gap = {"fp4": 1 / 6, "nf4": 0.152, "int8": 1 / 254}[layer.text("data_type")]
    slack = 0.02 if layer.integer("scale_bits") == 8 else 1e-4
    assert ((restored - weight).abs() <= (gap + slack) * weight.abs().max()).all()


@pytest.mark.parametrize("scale_bits", [8, 32])
@pytest.mark.parametrize("block_size", [64, 512])
def test_error_falls_from_fp4_to_nf4_to_int8(block_size, scale_bits):
    weight = normal(64, 512)
    errors = [error(weight, configuration(d, block_size, scale_bits)) for d in ("fp4", "nf4")]
    errors.append(error(weight, configuration("int8", block_size, scale_bits)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("data_type", ["fp4", "nf4", "int8"])
def test_smaller_blocks_have_less_error(data_type):
    weight = normal(64, 512)
    errors = [error(weight, configuration(data_type, size)) for size in (64, 128, 256, 512)]
    assert errors == sorted(errors)


@FOUR_BITS
def test_double_quantization_hardly_adds_error(data_type):
    weight = normal(64, 512)
    single, double = (error(weight, configuration(data_type, 64, bits)) for bits in (32, 8))
    assert double == pytest.approx(single, rel=0.01)


@EVERY
def test_zeros_stay_zeros(layer):
    assert torch.equal(round_trip(torch.zeros(3, 50), layer), torch.zeros(3, 50))


@EVERY
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_weights_stay_finite(layer, scale):
    assert round_trip(scale * normal(5, 67), layer).isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_quantized_as_their_float32_values(layer, dtype):
    weight = normal(5, 67).to(dtype)
    assert torch.equal(round_trip(weight, layer), round_trip(weight.float(), layer))


@EVERY
def test_quantization_is_deterministic(layer):
    first, second = (QUANTIZER.quantize(normal(8, 96), layer) for _ in range(2))
    assert all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)


@FOUR_BITS
def test_weights_of_many_chunks_are_quantized_as_small_ones(data_type):
    weight, layer = normal(640, 512), configuration(data_type)  # more than levels.CHUNK weights
    parts = [round_trip(part, layer) for part in weight.split(64)]
    assert torch.equal(round_trip(weight, layer), torch.cat(parts))


@pytest.mark.parametrize(
    "weight", [torch.ones(4), torch.ones(2, 2).int(), torch.full((2, 2), math.nan)]
)
def test_what_is_no_finite_matrix_is_refused(weight):
    with pytest.raises(InputError, match="weight of shape"):
        QUANTIZER.quantize(weight, configuration())


def test_a_value_that_is_not_allowed_is_refused():
    with pytest.raises(InputError, match="allowed"):
        QUANTIZER.quantize(torch.ones(2, 2), configuration(block_size=32))


def test_a_missing_package_names_the_extra(monkeypatch):
    quantized = QUANTIZER.quantize(normal(2, 64), configuration())
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = r"quantizer 'bitsandbytes' needs .* pip install 'qsearch\[bitsandbytes\]'"
    with pytest.raises(InputError, match=message):
        QUANTIZER.quantize(normal(2, 64), configuration())
    with pytest.raises(InputError, match=message):
        QUANTIZER.dequantize(quantized)
