"""GPTQ: rounding to normal-float levels that compensates errors by the layer's inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qsearch_quantizers.normal_float.levels import normal_float_levels
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.normal_float.scales import block_scales
from torch import Tensor

from qsearch.errors import InputError
from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.comparison import assert_same_tensors
from qsearch.testing.samples import normal_weight
from tests.quantizers.moments import correlated_moment

GPTQ = NormalFloat(NormalFloat.Options(rounding="gptq"))
NEAREST = NormalFloat(NormalFloat.Options())


def configuration(bits: int = 3, block_size: int = 32) -> LayerConfiguration:
    return LayerConfiguration(
        {
            "bits": bits,
            "scale_bits": 8,
            "scale_dtype": "float16",
            "block_size": block_size,
            "scale_block_size": 16,
        }
    )


def reference(weight: Tensor, moment: Tensor, chosen: LayerConfiguration) -> Tensor:
    """GPTQ as its paper has it, from the explicit inverse, in float64, on the nearest scales."""
    nearest = NEAREST.quantize(weight, chosen).tensors
    scales = block_scales(nearest["scale_codes"], nearest["scales"], chosen)
    size, (rows, columns) = chosen.integer("block_size"), weight.shape
    of_each = scales.repeat_interleave(size)[: rows * columns].view(rows, columns).double()
    levels = normal_float_levels(chosen.integer("bits")).double()
    work, result = weight.double().clone(), torch.empty(weight.shape, dtype=torch.float64)
    dampened = moment.double() + 0.01 * moment.double().diagonal().mean() * torch.eye(columns)
    for column in range(columns):
        distances = work[:, column, None] - levels * of_each[:, column, None]
        result[:, column] = levels[distances.abs().argmin(dim=1)] * of_each[:, column]
        error = work[:, column] - result[:, column]
        inverse = torch.linalg.inv(dampened[column:, column:])
        work[:, column + 1 :] -= error[:, None] * inverse[0, 1:] / inverse[0, 0]
    return result.float()


@pytest.mark.parametrize("columns", [64, 48, 21], ids=["whole blocks", "halves", "any"])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_are_those_of_the_paper_with_its_explicit_inverse(bits: int, columns: int) -> None:
    for seed in range(5):
        weight, chosen = normal_weight(12, columns, seed=seed), configuration(bits)
        moment = correlated_moment(columns, seed)
        actual = GPTQ.dequantize(GPTQ.quantize_for_inputs(weight, chosen, moment))
        torch.testing.assert_close(actual, reference(weight, moment, chosen), rtol=1e-5, atol=1e-7)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    columns=st.integers(1, 200),
    bits=st.sampled_from([2, 3, 4, 8]),
    size=st.sampled_from([16, 32, 64]),
)
@settings(max_examples=20)
def test_uncorrelated_inputs_of_one_size_mean_rounding_to_nearest(
    seed: int, rows: int, columns: int, bits: int, size: int
) -> None:
    weight, chosen = normal_weight(rows, columns, seed=seed), configuration(bits, size)
    ours = GPTQ.quantize_for_inputs(weight, chosen, 3.0 * torch.eye(columns))
    assert_same_tensors(ours.tensors, NEAREST.quantize(weight, chosen).tensors, "tensors")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_move_far_less_than_when_rounded_to_nearest(bits: int) -> None:
    weight, moment = normal_weight(64, 128), correlated_moment(128)
    off = [
        (one.dequantize(one.quantize_for_inputs(weight, configuration(bits), moment)) - weight)
        for one in (GPTQ, NEAREST)
    ]
    compensated, nearest = (float(((each @ moment) * each).sum()) for each in off)
    assert compensated < 0.5 * nearest


def test_without_a_moment_it_is_refused_and_not_rounded_to_nearest() -> None:
    with pytest.raises(InputError, match=r"second moment .* use rounding 'nearest'"):
        GPTQ.quantize(normal_weight(4, 32), configuration())
