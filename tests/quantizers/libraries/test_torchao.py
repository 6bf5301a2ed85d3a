"""torchao quantizer: weight-only int4 and int8 of groups."""

import pytest
import torch
from qsearch_quantizers.libraries.torchao import TorchAO

from qsearch.testing.samples import normal_weight

torchao = pytest.importorskip("torchao.quantization")

QUANTIZER = TorchAO(TorchAO.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)


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
