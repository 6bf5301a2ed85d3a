"""Integer quantizer: symmetric and asymmetric groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.space.configuration import LayerConfiguration

SYMMETRIC = Integer(Integer.Options())
ASYMMETRIC = Integer(Integer.Options(scheme="asymmetric"))
BOTH = pytest.mark.parametrize("quantizer", [SYMMETRIC, ASYMMETRIC], ids=["sym", "asym"])


def normal(*shape, seed=0):
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def configuration(bits=4, group_size=64):
    return LayerConfiguration({"bits": bits, "group_size": group_size})


def round_trip(quantizer, weight, layer):
    return quantizer.dequantize(quantizer.quantize(weight, layer))


def test_scheme_is_a_knob_only_if_both_are_listed():
    both = Integer(Integer.Options.model_validate({"scheme": ["asymmetric", "symmetric"]}))
    assert both.choices().names == ("bits", "group_size", "scheme")
    assert both.choices().knobs[2].values == ("symmetric", "asymmetric")
    assert ASYMMETRIC.choices().names == ("bits", "group_size")


@pytest.mark.parametrize("options", [{"scheme": "signed"}, {"scheme": []}, {"bits": [1]}, {"x": 1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Integer.Options.model_validate(options)


def test_storage_bits_count_float16_scales_and_packed_zero_points():
    assert SYMMETRIC.storage_bits(configuration(3, 128)) == 3 + 16 / 128
    assert ASYMMETRIC.storage_bits(configuration(3, 128)) == 3 + (16 + 3) / 128
    both = Integer(Integer.Options(scheme=("symmetric", "asymmetric")))
    layer = LayerConfiguration({**configuration(2, 32), "scheme": "asymmetric"})
    assert both.storage_bits(layer) == 2 + (16 + 2) / 32


@BOTH
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    bits=st.sampled_from([2, 3, 4, 8]),
    group_size=st.sampled_from([32, 64, 128]),
)
@settings(max_examples=30, deadline=None)
def test_every_weight_is_within_one_step_in_any_shape(quantizer, rows, columns, bits, group_size):
    weight = normal(rows, columns, seed=columns)
    layer = configuration(bits, group_size)
    quantized = quantizer.quantize(weight, layer)
    restored = quantizer.dequantize(quantized)
    layout = quantizer.layout((rows, columns), layer)
    assert {k: (tuple(v.shape), v.dtype) for k, v in quantized.tensors.items()} == {
        k: (v.shape, v.dtype) for k, v in layout.items()
    }
    steps = quantized.tensors["scales"].float().abs().repeat_interleave(group_size, dim=1)
    assert ((restored - weight).abs() <= 1.02 * steps[:, :columns] + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_quantization_is_idempotent(bits):
    once = round_trip(SYMMETRIC, normal(16, 200), configuration(bits))
    assert torch.equal(round_trip(SYMMETRIC, once, configuration(bits)), once)


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
@pytest.mark.parametrize("bits", [2, 8])
def test_zeros_and_weights_below_float16_become_zeros(quantizer, bits):
    for weight in (torch.zeros(3, 50), torch.full((3, 50), 1e-12)):
        restored = round_trip(quantizer, weight, configuration(bits))
        assert torch.equal(restored, torch.zeros(3, 50))


@BOTH
def test_an_outlier_spoils_only_its_group(quantizer):
    weight = normal(2, 128)
    spoilt = weight.clone()
    spoilt[0, 0] = -1000.0
    clean, restored = (round_trip(quantizer, w, configuration()) for w in (weight, spoilt))
    assert restored[0, 0] == pytest.approx(-1000.0, rel=0.05)
    assert torch.equal(restored[0, 64:], clean[0, 64:])
    assert torch.equal(restored[1], clean[1])


@BOTH
def test_huge_weights_stay_finite(quantizer):
    assert round_trip(quantizer, torch.full((2, 32), 1e30), configuration(2)).isfinite().all()
