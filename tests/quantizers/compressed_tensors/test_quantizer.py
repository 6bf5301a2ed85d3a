"""Schemes that engines read: what their names say, and the weights that they give."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from qsearch_quantizers.compressed_tensors.quantizer import CompressedTensors
from qsearch_quantizers.compressed_tensors.schemes import DEFAULT, Scheme
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.errors import InputError
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight

EVERY = get_args(Scheme)


def schemes(*names: str, **options: Any) -> CompressedTensors:
    return CompressedTensors(CompressedTensors.Options(scheme=names, **options))


def of(scheme: str) -> LayerConfiguration:
    return LayerConfiguration({"scheme": scheme})


@pytest.mark.parametrize(
    ("scheme", "bits", "size", "is_asymmetric"),
    [
        ("W2A16-g32", 2, 32, False),
        ("W3A16-g128-asym", 3, 128, True),
        ("W4A16-g64", 4, 64, False),
        ("W8A16-g64-asym", 8, 64, True),
    ],
)
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_integers_of_groups_are_those_of_the_integer_quantizer(
    scheme: str, bits: int, size: int, is_asymmetric: bool, rounding: str
) -> None:
    weight, inputs = normal_weight(24, 256), normal_weight(512, 256)
    moment = inputs.T @ inputs / len(inputs)
    kind = "asymmetric" if is_asymmetric else "symmetric"
    integer = Integer(
        Integer.Options(bits=(bits,), group_size=(size,), scheme=kind, rounding=rounding)
    )
    expected = integer.quantize_for_inputs(
        weight, LayerConfiguration({"bits": bits, "group_size": size}), moment
    )
    quantizer = schemes(scheme, rounding=rounding)
    found = quantizer.quantize_for_inputs(weight, of(scheme), moment)
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert torch.equal(quantizer.dequantize(found), integer.dequantize(expected))


@pytest.mark.parametrize("columns", [40, 300])
def test_a_channel_is_a_whole_row(columns: int) -> None:
    weight = normal_weight(8, columns)
    quantizer = schemes("W4A16-channel", "W4A16-channel-asym")
    for scheme in ("W4A16-channel", "W4A16-channel-asym"):
        quantized = quantizer.quantize(weight, of(scheme))
        assert quantized.tensors["scales"].shape == (8, 1)
        integers = quantizer.as_integers(quantized)
        assert (integers.group_size, integers.zero_points is None) == (
            columns,
            "asym" not in scheme,
        )
        stored = 4 + (16 if integers.zero_points is None else 20) / columns
        assert quantizer.storage_bits_of((8, columns), of(scheme)) == pytest.approx(stored)


def test_rows_rounded_by_inputs_in_blocks_are_those_of_one_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight, inputs = normal_weight(16, 300), normal_weight(600, 300)
    inputs[:, 1:] += inputs[:, :-1]  # Else nothing would make up for an error.
    moment = inputs.T @ inputs / len(inputs)
    quantizer = schemes("W3A16-channel", rounding="gptq")
    blocks = quantizer.quantize_for_inputs(weight, of("W3A16-channel"), moment)
    monkeypatch.setattr("qsearch_quantizers.gptq.BLOCK", 512)
    whole = quantizer.quantize_for_inputs(weight, of("W3A16-channel"), moment)
    assert torch.equal(blocks.tensors["scales"], whole.tensors["scales"])
    # Sums of another order may carry a code to its neighbour.
    assert (blocks.tensors["codes"] == whole.tensors["codes"]).float().mean() > 0.99
    nearest = schemes("W3A16-channel").quantize(weight, of("W3A16-channel"))

    def error(quantized: Any) -> float:
        return float(((weight - quantizer.dequantize(quantized)) @ inputs.T).square().mean())

    assert error(blocks) < 0.7 * error(nearest)


def test_floating_point_has_the_nearest_numbers_of_each_row() -> None:
    weight = normal_weight(16, 64)
    weight[3] = 0
    weight[4] *= 1e-38  # Scales of such a row are not normal numbers any more.
    quantizer = schemes("FP8")
    quantized = quantizer.quantize(weight, of("FP8"))
    float8 = quantizer.as_float8(quantized)
    assert float8 is not None
    assert (float8.codes.dtype, float8.scales.dtype) == (torch.float8_e4m3fn, torch.float32)
    restored = quantizer.dequantize(quantized)
    assert torch.equal(restored, float8.codes.float() * float8.scales)
    assert float8.codes.float().abs().amax(dim=1)[:3].tolist() == [448] * 3
    assert restored.isfinite().all()
    assert not restored[3].any()
    # Half a step of 3 bits; numbers near zero are evenly spaced.
    step = torch.maximum(weight.abs() / 16, float8.scales * 2.0**-10)
    normal = [row for row in range(16) if row != 4]
    assert ((weight - restored).abs() <= 1.001 * step)[normal].all()


def test_floating_point_is_not_integers_nor_the_reverse() -> None:
    quantizer = schemes("FP8", "W8A16-channel")
    weight = normal_weight(8, 64)
    with pytest.raises(InputError, match="'FP8' are not integers"):
        quantizer.as_integers(quantizer.quantize(weight, of("FP8")))
    assert quantizer.as_float8(quantizer.quantize(weight, of("W8A16-channel"))) is None


def test_values_are_in_the_order_of_falling_error() -> None:
    options = CompressedTensors.Options(scheme=("W8A16-g32", "FP8", "W4A16-g32"))
    assert options.scheme == ("W4A16-g32", "FP8", "W8A16-g32")
    weight, quantizer = normal_weight(64, 1024), schemes(*EVERY)
    symmetric = [name for name in EVERY if "asym" not in name]
    errors = [
        float((weight - quantizer.dequantize(quantizer.quantize(weight, of(name)))).norm())
        for name in symmetric
    ]
    assert errors == sorted(errors, reverse=True)
    assert list(DEFAULT) == [name for name in EVERY if name in DEFAULT]


@pytest.mark.parametrize("names", [(), ("FP8", "FP8"), ("W5A16-g32",)])
def test_other_values_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        CompressedTensors.Options(scheme=names)


def test_rows_that_groups_do_not_divide_do_not_take_them() -> None:
    quantizer = schemes(*EVERY)
    assert quantizer.takes((8, 576), of("W4A16-g64"))
    assert not quantizer.takes((8, 576), of("W4A16-g128"))
    assert quantizer.takes((8, 577), of("W4A16-channel"))
    assert quantizer.takes((8, 577), of("FP8"))
