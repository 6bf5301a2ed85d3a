"""GPTQ: rounding of the integer quantizer that compensates errors by the layer's inputs."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qsearch_quantizers import gptq as module
from qsearch_quantizers.gptq import compensated_codes, feedback_factor
from qsearch_quantizers.integer.grid import asymmetric_grid, symmetric_grid
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.errors import InputError
from qsearch.plugins.quantizer_capabilities import quantize_weight
from qsearch.space.configuration import LayerConfiguration
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.testing.comparison import assert_same_tensors
from qsearch.testing.samples import normal_weight
from tests.quantizers.moments import correlated_moment

BOTH = pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
normal = partial(normal_weight, std=1.0)


def gptq(scheme="symmetric"):
    return Integer(Integer.Options(scheme=scheme, rounding="gptq"))


def nearest(scheme="symmetric"):
    return Integer(Integer.Options(scheme=scheme))


def configuration(bits=3, group_size=32):
    return LayerConfiguration({"bits": bits, "group_size": group_size})


def assert_same(one, other):
    assert_same_tensors(one.tensors, other.tensors, "tensors")


def reference(weight, moment, bits, group_size, dampening, find_grid):
    """GPTQ as its paper has it: unblocked, from the explicit inverse, in float64."""
    work, columns = weight.double().clone(), weight.shape[1]
    dampened = moment.double() + dampening * moment.double().diagonal().mean() * torch.eye(columns)
    codes = torch.empty(weight.shape)
    for column in range(columns):
        if column % group_size == 0:
            grid = find_grid(work[:, column : column + group_size].float(), 1, bits)
        code = grid.encode(work[:, column : column + 1].float())
        error = work[:, column] - grid.decode(code)[:, 0].double()
        inverse = torch.linalg.inv(dampened[column:, column:])
        work[:, column + 1 :] -= error[:, None] * inverse[0, 1:] / inverse[0, 0]
        codes[:, column] = code[:, 0]
    return codes


@BOTH
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    columns=st.integers(1, 200),
    bits=st.sampled_from([2, 3, 4, 8]),
    size=st.sampled_from([32, 64, 128]),
    factor=st.floats(1e-6, 1e6),
)
@settings(max_examples=20)
def test_uncorrelated_inputs_of_one_size_mean_rounding_to_nearest(
    scheme, seed, rows, columns, bits, size, factor
):
    weight, layer = normal(rows, columns, seed=seed), configuration(bits, size)
    ours = gptq(scheme).quantize_for_inputs(weight, layer, factor * torch.eye(columns))
    assert_same(ours, nearest(scheme).quantize(weight, layer))


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("find_grid", [symmetric_grid, asymmetric_grid])
@pytest.mark.parametrize(("columns", "group_size"), [(32, 8), (40, 16), (21, 8)])
def test_codes_are_those_of_the_paper_with_its_explicit_inverse(
    find_grid, columns, group_size, block, monkeypatch
):
    monkeypatch.setattr(module, "BLOCK", block)
    for seed in range(5):
        weight, moment = normal(12, columns, seed=seed), correlated_moment(columns, seed=seed)
        factor = feedback_factor(moment, 0.01)
        codes, _ = compensated_codes(
            factor, weight, group_size, lambda some, _: find_grid(some, 0, bits=3)
        )
        assert torch.equal(codes, reference(weight, moment, 3, group_size, 0.01, find_grid))


@BOTH
def test_an_input_that_is_always_zero_is_rounded_to_nearest(scheme):
    weight, moment = normal(6, 96), correlated_moment(96)
    dead = [3, 40, 95]
    moment[dead], moment[:, dead] = 0, 0
    quantized = gptq(scheme).quantize_for_inputs(weight, configuration(8), moment)
    restored = gptq(scheme).dequantize(quantized)
    steps = quantized.tensors["scales"].float().abs().repeat_interleave(32, dim=1)
    assert restored.isfinite().all()
    off = (restored - weight).abs()[:, dead]
    assert (off <= 0.51 * steps[:, dead] + 1e-6).all()


@BOTH
def test_a_layer_without_inputs_is_rounded_to_nearest(scheme):
    weight, layer = normal(6, 70), configuration()
    ours = gptq(scheme).quantize_for_inputs(weight, layer, torch.zeros(()).expand(70, 70))
    assert_same(ours, nearest(scheme).quantize(weight, layer))


def test_fewer_tokens_than_features_are_enough():
    weight, moment = normal(16, 128), correlated_moment(128, tokens=5)
    ours = gptq().quantize_for_inputs(weight, configuration(), moment)
    plain = nearest().quantize(weight, configuration())
    off = [(gptq().dequantize(each) - weight).double() for each in (ours, plain)]
    error, usual = (float(((each @ moment.double()) * each).sum()) for each in off)
    assert error < 0.5 * usual


def test_the_number_of_threads_makes_no_difference():
    # Of a moment this large, Cholesky decompositions on one thread and on two differ.
    weight, moment, results = normal(40, 1000), correlated_moment(1000), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results.append(gptq().quantize_for_inputs(weight, configuration(8), moment))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert_same(*results)


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (torch.eye(16), r"of shape \(32, 32\), not of shape \(16, 16\)"),
        (torch.full((32, 32), float("nan")), "must be finite"),
        (torch.eye(32) - 2, "positive semidefinite"),
    ],
)
def test_what_is_no_moment_is_refused(moment, reason):
    with pytest.raises(InputError, match=reason):
        gptq().quantize_for_inputs(normal(4, 32), configuration(), moment)


def test_without_a_moment_it_is_refused_and_not_rounded_to_nearest():
    with pytest.raises(InputError, match=r"second moment .* use rounding 'nearest'"):
        quantize_weight(gptq(), normal(4, 32), configuration(), None)


def test_rounding_to_nearest_minds_no_moment():
    weight, moment = normal(4, 64), correlated_moment(64)
    plain = nearest().quantize(weight, configuration())
    assert_same(nearest().quantize_for_inputs(weight, configuration(), moment), plain)
    assert_same(quantize_weight(nearest(), weight, configuration(), moment), plain)


def test_the_engine_correlates_its_errors_without_a_model():
    ours, plain = (
        error_correlation(
            Integer(Integer.Options(bits=(2, 4), group_size=(64,), rounding=rounding))
        )
        for rounding in ("gptq", "nearest")
    )
    assert ours.tolist() == plain.tolist()


def test_a_moment_is_decomposed_once_while_it_is_the_last():
    quantizer, weight = gptq(), normal(8, 64)
    first, second = (correlated_moment(64, seed) for seed in (0, 1))
    results = [
        quantizer.quantize_for_inputs(weight, configuration(), moment)
        for moment in (first, first, second, first)
    ]
    assert_same(results[0], results[1])
    assert_same(results[0], results[3])
    assert_same(results[2], gptq().quantize_for_inputs(weight, configuration(), second))
    assert not torch.equal(results[0].tensors["codes"], results[2].tensors["codes"])
