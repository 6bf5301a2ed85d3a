from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_coalora.adapter.residual import residual_factors
from qsearch_coalora.weights.cache import BoundedCache
from qsearch_coalora.weights.quantization_error import quantization_errors
from qsearch_coalora.weights.switching import QuantizedWeights
from torch import nn

from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec


@given(
    bound=st.integers(0, 50),
    lookups=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), max_size=60),
)
def test_a_cache_never_holds_more_than_its_bound(bound, lookups) -> None:
    cache = BoundedCache(bound)
    for key, size in lookups:
        before = cache.counts.hits
        value = cache.get(key, lambda key=key, size=size: SimpleNamespace(nbytes=size, of=key))
        assert value.of == key
        assert cache.counts.nbytes <= bound
        assert cache.counts.hits > before or value.nbytes == size
    assert cache.counts.hits + cache.counts.misses == len(lookups)


def test_passes_over_somewhat_more_than_fits_still_hit() -> None:
    cache = BoundedCache(24)
    for _ in range(20):
        for key in range(30):
            cache.get(key, lambda: SimpleNamespace(nbytes=1))
    counts = cache.counts
    # Dropping what was used least recently would hit never.
    assert counts.hits > 0.5 * (counts.hits + counts.misses)


LAYERS = (LayerSpec("a", "query", 0, (8, 8)), LayerSpec("b", "key", 0, (8, 8)))


def configuration(bits_a: int, bits_b: int) -> Configuration:
    return Configuration(
        {
            "a": LayerConfiguration({"bits": bits_a, "scale": "row"}),
            "b": LayerConfiguration({"bits": bits_b, "scale": "row"}),
        }
    )


@pytest.fixture
def modules() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(8, 8).requires_grad_(False) for _ in LAYERS]


def test_only_layers_whose_configuration_changed_are_switched(modules, quantizer) -> None:
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(2**20))
    assert weights.activate(configuration(2, 4)) == (0, 1)
    assert weights.activate(configuration(2, 8)) == (1,)
    assert weights.activate(configuration(2, 8)) == ()
    assert quantizer.calls == 3


def test_a_switch_back_comes_from_the_cache(modules, quantizer) -> None:
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(2**20))
    weights.activate(configuration(2, 4))
    first = modules[0].weight.clone()
    weights.activate(configuration(8, 4))
    weights.activate(configuration(2, 4))
    assert torch.equal(modules[0].weight, first)
    assert quantizer.calls == 3
    assert weights.cache.counts.hits == 1


def test_where_the_dequantized_weights_of_a_set_fit_no_switch_dequantizes(
    modules, quantizer
) -> None:
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(2**20))
    chosen = [configuration(2, 4), configuration(8, 4)]
    weights.expect(chosen)
    weights.activate(chosen[0])
    first = modules[0].weight.data
    weights.activate(chosen[1])
    weights.activate(chosen[0])
    assert modules[0].weight.data_ptr() == first.data_ptr()
    assert quantizer.calls == 3
    assert weights.cache.counts.nbytes == sum(
        4 * layer.parameters for layer in (LAYERS[0], LAYERS[0], LAYERS[1])
    )


def test_where_they_do_not_fit_quantized_weights_are_kept(modules, quantizer) -> None:
    chosen = [configuration(2, 4), configuration(8, 4)]
    bound = 4 * (2 * LAYERS[0].parameters + LAYERS[1].parameters) - 1
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(bound))
    weights.expect(chosen)
    for one in (*chosen, *chosen):
        weights.activate(one)
    assert quantizer.calls == 3
    assert weights.cache.counts.nbytes < bound / 2


def test_factors_beside_the_weights_need_room_too(modules, quantizer) -> None:
    chosen = [configuration(2, 4), configuration(8, 4)]
    wanted = (LAYERS[0], LAYERS[0], LAYERS[1])
    bound = 4 * sum(layer.parameters + 2 * sum(layer.shape) for layer in wanted)
    for rank in (2, 3):
        weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(bound))
        weights.expect(chosen, rank)
        for one in chosen:
            weights.activate(one)
        kept_dequantized = weights.cache.counts.nbytes == 4 * sum(one.parameters for one in wanted)
        assert kept_dequantized == (rank == 2)


def test_weights_are_quantized_from_the_originals_and_restored_exactly(modules, quantizer) -> None:
    originals = [module.weight.clone() for module in modules]
    biases = [module.bias.clone() for module in modules]
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(0))
    for bits in (2, 4, 8):
        weights.activate(configuration(bits, bits))
    expected = quantizer.dequantize(quantizer.quantize(originals[0], configuration(8, 8)["a"]))
    assert torch.equal(modules[0].weight, expected)
    assert torch.equal(modules[0].bias, biases[0])
    weights.restore()
    assert torch.equal(modules[0].weight, originals[0])


@pytest.mark.parametrize(("shape", "rank"), [((48, 32), 4), ((32, 96), 8), ((16, 16), 16)])
def test_residual_factors_are_nearly_the_best_of_their_rank(shape, rank) -> None:
    torch.manual_seed(0)
    residual = torch.randn(shape)
    found = residual_factors(residual, torch.zeros(shape), rank, torch.Generator().manual_seed(1))
    L1, L2 = found.L1, found.L2
    assert L1.shape == (shape[0], rank)
    assert L2.shape == (rank, shape[1])
    best = torch.linalg.svdvals(residual)[rank:].norm()
    assert (residual - L1 @ L2).norm() <= 1.01 * best + 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_residual_factors_are_the_same_but_for_rounding_whatever_computes_them(seed: int) -> None:
    """Not their product alone: U, between them, was trained for their signs."""
    draw = torch.Generator().manual_seed(seed)
    residual = torch.randn(96, 64, generator=draw) * torch.linspace(0.1, 2, 64)
    rounding = 1 + 1e-6 * torch.randn(96, 64, generator=draw)
    nothing = torch.zeros(96, 64)
    first = residual_factors(residual, nothing, 8, torch.Generator().manual_seed(1))
    # Another order of the rows is another order of all sums; a machine's differ no less.
    turned = residual_factors(
        (residual * rounding).flip(0), nothing, 8, torch.Generator().manual_seed(1)
    )
    for one, other in ((first.L1, turned.L1.flip(0)), (first.L2, turned.L2)):
        assert (one - other).norm() < 1e-2 * one.norm()


def test_residual_factors_recover_a_residual_of_their_rank() -> None:
    torch.manual_seed(0)
    residual = torch.randn(40, 3) @ torch.randn(3, 30)
    found = residual_factors(residual, torch.zeros(40, 30), 3, torch.Generator().manual_seed(0))
    L1, L2 = found.L1, found.L2
    assert found.nbytes == 4 * 3 * (40 + 30)
    torch.testing.assert_close(L1 @ L2, residual, atol=1e-3, rtol=1e-3)


def test_a_residual_rank_above_the_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4, not 5"):
        residual_factors(torch.ones(4, 8), torch.ones(4, 8), 5, torch.Generator())


def test_quantization_errors_match_their_definition_on_whole_weights(quantizer) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(8, 16), 5 * torch.randn(12, 16), torch.randn(4, 8)]
    configurations = [LayerConfiguration({"bits": bits, "scale": "row"}) for bits in (2, 4)]
    errors = quantization_errors(weights, quantizer, configurations)
    for row, weight in enumerate(weights):
        for column, layer_configuration in enumerate(configurations):
            restored = quantizer.dequantize(quantizer.quantize(weight, layer_configuration))
            exact = (weight - restored).square().sum() / weight.square().sum()
            assert errors[row, column] == pytest.approx(exact.item(), rel=1e-5)


def test_sampled_quantization_errors_are_repeatable_and_near_the_whole(quantizer) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(512, 64), torch.randn(512, 64)]
    configurations = [LayerConfiguration({"bits": 4, "scale": "row"})]
    whole = quantization_errors(weights, quantizer, configurations)
    sampled = quantization_errors(weights, quantizer, configurations, sample_weights=8192)
    again = quantization_errors(weights, quantizer, configurations, sample_weights=8192)
    assert np.array_equal(sampled, again)
    np.testing.assert_allclose(sampled, whole, rtol=0.2)
