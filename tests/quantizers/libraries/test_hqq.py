"""HQQ quantizer: what hqq optimizes, and weights too small for it."""

import pytest
import torch
from qsearch_quantizers.libraries.hqq import CHUNK, HQQ

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, round_trip

hqq = pytest.importorskip("hqq.core.quantize")

QUANTIZER = HQQ(HQQ.Options())
EVERY = pytest.mark.parametrize("layer", QUANTIZER.choices().layer_configurations, ids=str)


def configuration(bits=4, group_size=64):
    return LayerConfiguration({"bits": bits, "group_size": group_size})


@EVERY
def test_codes_scales_and_zero_points_are_those_of_hqq(layer):
    weight = normal_weight(32, 256)
    assert weight.numel() <= CHUNK
    codes, grid = hqq.Quantizer.quantize(
        weight,
        nbits=layer.integer("bits"),
        group_size=layer.integer("group_size"),
        axis=1,
        bitpack=False,
        device="cpu",
    )
    ours = QUANTIZER.quantize(weight, layer)
    assert torch.equal(ours.tensors["codes"].view(codes.shape).float(), codes)
    assert torch.equal(ours.tensors["scales"].view(-1, 1), grid["scale"].half())
    assert torch.equal(ours.tensors["zero_points"].view(-1, 1), grid["zero"].half())
    # Decoded by hqq from the same float16 numbers.
    stored = {name: grid[name].half().float() for name in ("scale", "zero")}
    restored = hqq.Quantizer.dequantize(codes, grid | stored | {"compute_dtype": torch.float32})
    torch.testing.assert_close(QUANTIZER.dequantize(ours), restored)


@EVERY
def test_constant_groups_are_restored_to_float16(layer):
    weight = torch.full((3, 50), -0.37)
    torch.testing.assert_close(round_trip(QUANTIZER, weight, layer), weight, rtol=2**-11, atol=0.0)


def test_small_groups_next_to_large_ones_are_resolved_too():
    weight = torch.cat([normal_weight(8, 64), normal_weight(8, 64, 1e-3)], dim=1)
    restored = round_trip(QUANTIZER, weight, configuration(8))
    for part in (slice(0, 64), slice(64, 128)):
        off = (restored - weight)[:, part].norm() / weight[:, part].norm()
        # hqq alone would have 2.7 times this error for the small ones.
        assert off == pytest.approx(0.005, rel=0.2)


@EVERY
def test_a_group_of_tiny_range_becomes_one_value_near_its_weights(layer):
    weight = 0.1 + (1e-3 * normal_weight(3, 32)).clamp(-5e-5, 5e-5)
    restored = round_trip(QUANTIZER, weight, layer)
    assert (restored == restored[:, :1]).all()
    assert ((restored - weight).abs() <= 1e-4 + 2**-11 * weight).all()


def test_result_does_not_depend_on_the_number_of_threads():
    weight = normal_weight(32, 1000)
    once = round_trip(QUANTIZER, weight, configuration(3, 128))
    torch.set_num_threads(2)
    try:
        assert torch.equal(round_trip(QUANTIZER, weight, configuration(3, 128)), once)
    finally:
        torch.set_num_threads(1)


def test_nothing_is_printed(capfd):
    round_trip(QUANTIZER, normal_weight(4, 100), configuration())
    assert capfd.readouterr() == ("", "")
