"""HQQ quantizer: optimized zero points, packed codes."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from qsearch_quantizers.hqq_quantizer import CHUNK, HQQ
from qsearch_quantizers.packing import packed_tensors, unpack_tensors

from qsearch.configuration import LayerConfiguration
from qsearch.errors import InputError
from qsearch.layout import PackableQuantizer
from qsearch.plugins import load_plugin

hqq = pytest.importorskip("hqq.core.quantize")

QUANTIZER = HQQ(HQQ.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)


def normal(*shape, seed=0):
    return 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def configuration(bits=4, group_size=64):
    return LayerConfiguration({"bits": bits, "group_size": group_size})


def round_trip(weight, layer):
    return QUANTIZER.dequantize(QUANTIZER.quantize(weight, layer))


def error(weight, layer):
    return float((round_trip(weight, layer) - weight).norm() / weight.norm())


def test_it_is_the_plugin_called_hqq():
    assert load_plugin("quantizers", "hqq") is HQQ
    assert isinstance(QUANTIZER, PackableQuantizer)


def test_its_knobs_are_bits_and_group_size():
    assert {knob.name: knob.values for knob in QUANTIZER.choices().knobs} == {
        "bits": (2, 3, 4, 8),
        "group_size": (32, 64, 128),
    }


@pytest.mark.parametrize(
    "options", [{"bits": [1]}, {"bits": []}, {"group_size": [64, 64]}, {"x": 1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        HQQ.Options.model_validate(options)


def test_storage_bits_count_float16_scales_and_zero_points():
    assert QUANTIZER.storage_bits(configuration(2, 64)) == 2.5
    assert QUANTIZER.storage_bits(configuration(3, 128)) == 3 + (16 + 16) / 128


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
def test_codes_scales_and_zero_points_are_those_of_hqq(layer):
    weight = normal(32, 256)
    assert weight.numel() <= CHUNK
    codes, found = hqq.Quantizer.quantize(
        weight,
        nbits=layer.integer("bits"),
        group_size=layer.integer("group_size"),
        axis=1,
        bitpack=False,
        device="cpu",
    )
    ours = QUANTIZER.quantize(weight, layer)
    assert torch.equal(ours.tensors["codes"].view(codes.shape).float(), codes)
    assert torch.equal(ours.tensors["scales"].view(-1, 1), found["scale"].half())
    assert torch.equal(ours.tensors["zero_points"].view(-1, 1), found["zero"].half())
    # Decoded by hqq from the same float16 numbers.
    stored = {name: found[name].half().float() for name in ("scale", "zero")}
    restored = hqq.Quantizer.dequantize(codes, found | stored | {"compute_dtype": torch.float32})
    torch.testing.assert_close(QUANTIZER.dequantize(ours), restored)


def test_the_optimizer_lowers_the_error_of_the_range_alone():
    weight = normal(64, 256)
    codes, found = hqq.Quantizer.quantize(
        weight, nbits=3, group_size=64, axis=1, bitpack=False, optimize=False, device="cpu"
    )
    plain = hqq.Quantizer.dequantize(codes, found | {"compute_dtype": torch.float32})
    assert error(weight, configuration(3)) < float((plain - weight).norm() / weight.norm())


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    bits=st.sampled_from([2, 3, 4, 8]),
    group_size=st.sampled_from([32, 64, 128]),
)
@settings(max_examples=60, deadline=None)
def test_every_weight_is_within_one_step_in_any_shape(rows, columns, bits, group_size):
    weight = normal(rows, columns, seed=columns)
    layer = configuration(bits, group_size)
    quantized = QUANTIZER.quantize(weight, layer)
    restored = QUANTIZER.dequantize(quantized)
    layout = QUANTIZER.layout((rows, columns), layer)
    assert {k: (tuple(v.shape), v.dtype) for k, v in quantized.tensors.items()} == {
        k: (v.shape, v.dtype) for k, v in layout.items()
    }
    assert restored.dtype == torch.float32
    steps = quantized.tensors["scales"].float().repeat_interleave(group_size, dim=1)
    assert ((restored - weight).abs() <= 1.02 * steps[:, :columns] + 1e-3 * weight.abs()).all()


def test_the_last_shorter_group_of_a_row_is_a_group_of_its_own():
    weight = normal(8, 200)
    restored = round_trip(weight, configuration(3, 128))
    parts = [round_trip(part, configuration(3, 128)) for part in weight.split(128, dim=1)]
    assert torch.equal(restored, torch.cat(parts, dim=1))


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_more_bits_give_less_error(group_size):
    weight = normal(64, 256)
    errors = [error(weight, configuration(bits, group_size)) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)


@EVERY
def test_zeros_stay_zeros(layer):
    assert torch.equal(round_trip(torch.zeros(3, 50), layer), torch.zeros(3, 50))


@EVERY
def test_constant_groups_are_restored_to_float16(layer):
    weight = torch.full((3, 50), -0.37)
    torch.testing.assert_close(round_trip(weight, layer), weight, rtol=2**-11, atol=0.0)


@EVERY
def test_a_group_of_tiny_range_becomes_one_value_near_its_weights(layer):
    weight = 0.1 + (1e-3 * normal(3, 32)).clamp(-5e-5, 5e-5)
    restored = round_trip(weight, layer)
    assert (restored == restored[:, :1]).all()
    assert ((restored - weight).abs() <= 1e-4 + 2**-11 * weight).all()


@EVERY
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_weights_stay_finite(layer, scale):
    assert round_trip(scale * normal(5, 67), layer).isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_quantized_as_their_float32_values(layer, dtype):
    weight = normal(5, 67).to(dtype)
    assert torch.equal(round_trip(weight, layer), round_trip(weight.float(), layer))


def test_result_does_not_depend_on_the_number_of_threads():
    weight = normal(32, 1000)
    once = round_trip(weight, configuration(3, 128))
    torch.set_num_threads(2)
    try:
        assert torch.equal(round_trip(weight, configuration(3, 128)), once)
    finally:
        torch.set_num_threads(1)


def test_nothing_is_printed(capfd):
    round_trip(normal(4, 100), configuration())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "weight", [torch.ones(4), torch.ones(2, 2).int(), torch.full((2, 2), math.inf)]
)
def test_what_is_no_finite_matrix_is_refused(weight):
    with pytest.raises(InputError, match="weight of shape"):
        QUANTIZER.quantize(weight, configuration())


def test_a_value_that_is_not_allowed_is_refused():
    with pytest.raises(InputError, match="allowed"):
        QUANTIZER.quantize(torch.ones(2, 2), configuration(5))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hqq", None)
    with pytest.raises(InputError, match=r"'hqq' needs .* pip install 'qsearch\[hqq\]'"):
        QUANTIZER.quantize(normal(2, 64), configuration())


def test_dequantizing_does_not_need_the_package(monkeypatch):
    weight = normal(2, 100)
    quantized = QUANTIZER.quantize(weight, configuration(8))
    monkeypatch.setitem(sys.modules, "hqq", None)
    torch.testing.assert_close(QUANTIZER.dequantize(quantized), weight, rtol=0.0, atol=1e-3)
