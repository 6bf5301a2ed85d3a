"""Integer quantizer: symmetric and asymmetric groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, round_trip

SYMMETRIC = Integer(Integer.Options())
ASYMMETRIC = Integer(Integer.Options(scheme="asymmetric"))
BOTH = pytest.mark.parametrize("quantizer", [SYMMETRIC, ASYMMETRIC], ids=["sym", "asym"])


def configuration(bits=4, group_size=64):
    return LayerConfiguration({"bits": bits, "group_size": group_size})


@BOTH
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    bits=st.sampled_from([2, 3, 4, 8]),
    group_size=st.sampled_from([32, 64, 128]),
)
def test_every_weight_is_within_one_step_in_any_shape(quantizer, rows, columns, bits, group_size):
    weight = normal_weight(rows, columns, seed=columns)
    quantized = quantizer.quantize(weight, configuration(bits, group_size))
    steps = quantized.tensors["scales"].float().abs().repeat_interleave(group_size, dim=1)
    off = (quantizer.dequantize(quantized) - weight).abs()
    assert (off <= 1.02 * steps[:, :columns] + 1e-6).all()


def test_symmetric_keeps_the_extreme_of_a_group_at_code_zero():
    weight = torch.tensor([[0.5, -0.25, 1.0, 0.0]])
    quantized = SYMMETRIC.quantize(weight, configuration(2, 32))
    # by hand: scale = 1 / -2; codes = weight / scale + 2
    assert quantized.tensors["scales"].tolist() == [[-0.5]]
    assert quantized.tensors["codes"][0, 2] == 0
    assert SYMMETRIC.dequantize(quantized)[0, [0, 2, 3]].tolist() == [0.5, 1.0, 0.0]


def test_asymmetric_uses_the_range_of_a_group():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    quantized = ASYMMETRIC.quantize(weight, configuration(2, 32))
    assert quantized.tensors["codes"].tolist() == [[0, 1, 2, 3]]
    assert torch.equal(ASYMMETRIC.dequantize(quantized), weight)


@BOTH
def test_an_outlier_spoils_only_its_group(quantizer):
    weight = normal_weight(2, 128)
    clean = round_trip(quantizer, weight, configuration())
    weight[0, 0] = -1000.0
    restored = round_trip(quantizer, weight, configuration())
    assert restored[0, 0] == pytest.approx(-1000.0, rel=0.05)
    assert torch.equal(restored[0, 64:], clean[0, 64:])
    assert torch.equal(restored[1], clean[1])


@BOTH
@pytest.mark.parametrize("bits", [2, 8])
def test_weights_below_float16_become_zeros_and_huge_ones_stay_finite(quantizer, bits):
    tiny, huge = torch.full((3, 50), 1e-12), torch.full((2, 32), 1e30)
    assert torch.equal(round_trip(quantizer, tiny, configuration(bits)), torch.zeros(3, 50))
    assert round_trip(quantizer, huge, configuration(bits)).isfinite().all()
