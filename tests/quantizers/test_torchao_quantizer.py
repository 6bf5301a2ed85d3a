"""torchao quantizer: weight-only int4 and int8 of groups."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.packing import packed_tensors, unpack_tensors
from qsearch_quantizers.torchao_quantizer import TorchAO

from qsearch.configuration import LayerConfiguration
from qsearch.errors import InputError
from qsearch.layout import PackableQuantizer
from qsearch.plugins import load_plugin

torchao = pytest.importorskip("torchao.quantization")

QUANTIZER = TorchAO(TorchAO.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)
BOTH = pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])


def normal(*shape, seed=0):
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def configuration(bits=4, group_size=64, scheme="asymmetric"):
    return LayerConfiguration({"bits": bits, "group_size": group_size, "scheme": scheme})


def round_trip(weight, layer):
    return QUANTIZER.dequantize(QUANTIZER.quantize(weight, layer))


def error(weight, layer):
    return float((round_trip(weight, layer) - weight).norm() / weight.norm())


def quantized_by_torchao(weight, layer):
    """Return the weight of a linear layer as torchao's public configuration quantizes it."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(weight.clone())
    torchao.quantize_(
        linear,
        torchao.IntxWeightOnlyConfig(
            weight_dtype={4: torch.int4, 8: torch.int8}[layer.integer("bits")],
            granularity=torchao.PerGroup(layer.integer("group_size")),
            mapping_type=torchao.MappingType[layer.text("scheme").upper()],
            scale_dtype=torch.float16,
        ),
    )
    return linear.weight


def test_it_is_the_plugin_called_torchao():
    assert load_plugin("quantizers", "torchao") is TorchAO
    assert isinstance(QUANTIZER, PackableQuantizer)


def test_its_knobs_are_bits_group_size_and_scheme():
    assert {knob.name: knob.values for knob in QUANTIZER.choices().knobs} == {
        "bits": (4, 8),
        "group_size": (32, 64, 128, 256),
        "scheme": ("symmetric", "asymmetric"),
    }


@pytest.mark.parametrize(
    "options", [{"bits": [3]}, {"group_size": []}, {"scheme": ["symmetric"] * 2}, {"x": 1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        TorchAO.Options.model_validate(options)


def test_storage_bits_count_float16_scales_and_packed_zero_points():
    assert QUANTIZER.storage_bits(configuration(4, 128, "symmetric")) == 4 + 16 / 128
    assert QUANTIZER.storage_bits(configuration(4, 128)) == 4 + (16 + 4) / 128
    assert QUANTIZER.storage_bits(configuration(8, 32)) == 8 + (16 + 8) / 32


@EVERY
def test_stored_bytes_agree_with_storage_bits(layer):
    weight = normal(64, 256)
    stored = packed_tensors(QUANTIZER.quantize(weight, layer), QUANTIZER)
    stored_bits = 8 * sum(tensor.nbytes for tensor in stored.values()) / weight.numel()
    assert stored_bits == QUANTIZER.storage_bits(layer)


@EVERY
@pytest.mark.parametrize("shape", [(16, 200), (5, 7)])
def test_packed_tensors_unpack_to_the_same_weight(layer, shape):
    quantized = QUANTIZER.quantize(normal(*shape), layer)
    again = unpack_tensors(packed_tensors(quantized, QUANTIZER), shape, layer, QUANTIZER)
    assert torch.equal(QUANTIZER.dequantize(again), QUANTIZER.dequantize(quantized))


@EVERY
def test_scales_and_zero_points_are_those_of_torchao(layer):
    weight = normal(16, 512)
    theirs, ours = quantized_by_torchao(weight, layer), QUANTIZER.quantize(weight, layer)
    assert torch.equal(ours.tensors["scales"], theirs.scale)
    if layer.text("scheme") == "asymmetric":
        half = 2 ** (layer.integer("bits") - 1)  # torchao's codes are signed
        assert torch.equal(ours.tensors["zero_points"].int() - half, theirs.zero_point.int())


@EVERY
def test_codes_are_those_of_torchao_where_it_divides_exactly(layer):
    # torchao's configuration multiplies by the scale's float16 reciprocal, so a scale that is a
    # power of two: each group's range is ±(2^bits - 1)/2 steps of 2^-9.
    bits = layer.integer("bits")
    bound = (2**bits - 1) / 2 * 2**-9
    weight = (0.4 * bound / 0.02 * normal(16, 512)).clamp(-bound, bound)
    weight[:, ::32], weight[:, 1::32] = bound, -bound
    theirs, ours = quantized_by_torchao(weight, layer), QUANTIZER.quantize(weight, layer)
    assert (ours.tensors["scales"] == 2**-9).all()
    assert torch.equal(ours.tensors["codes"].int() - 2 ** (bits - 1), theirs.qdata.int())
    assert torch.equal(QUANTIZER.dequantize(ours), theirs.dequantize())


@EVERY
def test_error_is_at_most_that_of_torchao(layer):
    weight = normal(16, 512)
    theirs = quantized_by_torchao(weight, layer).dequantize()
    assert error(weight, layer) <= float((theirs - weight).norm() / weight.norm())


def test_symmetric_grid_is_from_minus_to_plus_the_absolute_maximum():
    weight = torch.tensor([[-7.5, -1.0, 0.0, 2.0]])
    quantized = QUANTIZER.quantize(weight, configuration(4, 32, "symmetric"))
    # By hand: scale = 7.5 / (15/2); codes = weight / scale + 8, -7.5 rounded to even.
    assert quantized.tensors["scales"].tolist() == [[1.0]]
    assert quantized.tensors["codes"].tolist() == [[0, 7, 8, 10]]
    assert QUANTIZER.dequantize(quantized).tolist() == [[-8.0, -1.0, 0.0, 2.0]]


def test_asymmetric_grid_is_the_range_of_a_group():
    weight = torch.tensor([[-3.0, 0.0, 5.0, 12.0]])
    quantized = QUANTIZER.quantize(weight, configuration(4, 32))
    assert quantized.tensors["codes"].tolist() == [[0, 3, 8, 15]]
    assert quantized.tensors["zero_points"].tolist() == [[3]]
    assert torch.equal(QUANTIZER.dequantize(quantized), weight)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 600),
    layer=st.sampled_from(QUANTIZER.choices().layer_configurations),
)
@settings(max_examples=60, deadline=None)
def test_every_weight_is_within_one_step_in_any_shape(rows, columns, layer):
    weight = normal(rows, columns, seed=columns)
    quantized = QUANTIZER.quantize(weight, layer)
    restored = QUANTIZER.dequantize(quantized)
    layout = QUANTIZER.layout((rows, columns), layer)
    assert {k: (tuple(v.shape), v.dtype) for k, v in quantized.tensors.items()} == {
        k: (v.shape, v.dtype) for k, v in layout.items()
    }
    assert restored.dtype == torch.float32
    steps = quantized.tensors["scales"].float()
    steps = steps.repeat_interleave(layer.integer("group_size"), dim=1)[:, :columns]
    assert ((restored - weight).abs() <= 1.02 * steps).all()


@EVERY
def test_the_last_shorter_group_of_a_row_is_a_group_of_its_own(layer):
    weight = normal(8, 300)
    parts = weight.split(layer.integer("group_size"), dim=1)
    restored = torch.cat([round_trip(part, layer) for part in parts], dim=1)
    assert torch.equal(round_trip(weight, layer), restored)


@BOTH
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_more_bits_give_less_error(group_size, scheme):
    weight = normal(64, 256)
    four, eight = (error(weight, configuration(bits, group_size, scheme)) for bits in (4, 8))
    assert eight < four / 10


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_asymmetric_grids_have_less_error(bits, group_size):
    weight = normal(64, 256)
    symmetric, asymmetric = (
        error(weight, configuration(bits, group_size, scheme))
        for scheme in ("symmetric", "asymmetric")
    )
    assert asymmetric < symmetric


@EVERY
def test_zeros_and_weights_below_float16_become_zeros(layer):
    for weight in (torch.zeros(3, 50), torch.full((3, 50), 1e-12)):
        assert torch.equal(round_trip(weight, layer), torch.zeros(3, 50))


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


@pytest.mark.parametrize(
    "weight", [torch.ones(4), torch.ones(2, 2).int(), torch.full((2, 2), math.nan)]
)
def test_what_is_no_finite_matrix_is_refused(weight):
    with pytest.raises(InputError, match="weight of shape"):
        QUANTIZER.quantize(weight, configuration())


def test_a_value_that_is_not_allowed_is_refused():
    with pytest.raises(InputError, match="allowed"):
        QUANTIZER.quantize(torch.ones(2, 2), configuration(2))


def test_a_missing_package_names_the_extra(monkeypatch):
    quantized = QUANTIZER.quantize(normal(2, 64), configuration())
    monkeypatch.setitem(sys.modules, "torchao", None)
    message = r"quantizer 'torchao' needs .* pip install 'qsearch\[torchao\]'"
    with pytest.raises(InputError, match=message):
        QUANTIZER.quantize(normal(2, 64), configuration())
    with pytest.raises(InputError, match=message):
        QUANTIZER.dequantize(quantized)
