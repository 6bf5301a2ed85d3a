"""torchao quantizer: weight-only int4 and int8 of groups."""

import pytest
import torch
from qsearch_quantizers.libraries.torchao import TorchAO

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, round_trip

torchao = pytest.importorskip("torchao.quantization")

QUANTIZER = TorchAO(TorchAO.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)


def configuration(bits=4, group_size=64, scheme="asymmetric"):
    return LayerConfiguration({"bits": bits, "group_size": group_size, "scheme": scheme})


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


def test_storage_bits_count_float16_scales_and_packed_zero_points():
    assert QUANTIZER.storage_bits(configuration(4, 128, "symmetric")) == 4 + 16 / 128
    assert QUANTIZER.storage_bits(configuration(4, 128)) == 4 + (16 + 4) / 128
    assert QUANTIZER.storage_bits(configuration(8, 32)) == 8 + (16 + 8) / 32


@EVERY
def test_scales_and_zero_points_are_those_of_torchao(layer):
    weight = normal_weight(16, 512)
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
    weight = (0.4 * bound / 0.02 * normal_weight(16, 512)).clamp(-bound, bound)
    weight[:, ::32], weight[:, 1::32] = bound, -bound
    theirs, ours = quantized_by_torchao(weight, layer), QUANTIZER.quantize(weight, layer)
    assert (ours.tensors["scales"] == 2**-9).all()
    assert torch.equal(ours.tensors["codes"].int() - 2 ** (bits - 1), theirs.qdata.int())
    assert torch.equal(QUANTIZER.dequantize(ours), theirs.dequantize())


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


@EVERY
def test_the_last_shorter_group_of_a_row_is_a_group_of_its_own(layer):
    weight = normal_weight(8, 300)
    parts = weight.split(layer.integer("group_size"), dim=1)
    restored = torch.cat([round_trip(QUANTIZER, part, layer) for part in parts], dim=1)
    assert torch.equal(round_trip(QUANTIZER, weight, layer), restored)
