"""Quantized weights: what the cache keeps of them, and how they are switched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_coalora.adapter.residual import residual_factors
from qsearch_coalora.weights.cache import BoundedCache
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
    # Dropping what was used least recently would hit never.
    assert cache.counts.hits > 0.5 * (cache.counts.hits + cache.counts.misses)


LAYERS = (LayerSpec("a", "query", 0, (8, 8)), LayerSpec("b", "key", 0, (8, 8)))


def configuration(*bits: int) -> Configuration:
    return Configuration(
        {
            layer.name: LayerConfiguration({"bits": count, "scale": "row"})
            for layer, count in zip(LAYERS, bits, strict=True)
        }
    )


@pytest.fixture
def modules() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(8, 8).requires_grad_(False) for _ in LAYERS]


def test_layers_that_changed_alone_are_switched_and_back_from_the_cache(modules, quantizer) -> None:
    weights = QuantizedWeights(LAYERS, modules, quantizer, BoundedCache(2**20))
    assert weights.activate(configuration(2, 4)) == (0, 1)
    first = modules[0].weight.clone()
    assert weights.activate(configuration(8, 4)) == (0,)
    assert weights.activate(configuration(8, 4)) == ()
    assert weights.activate(configuration(2, 4)) == (0,)
    assert torch.equal(modules[0].weight, first)
    assert (quantizer.calls, weights.cache.counts.hits) == (3, 1)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("missing", [0, 1])
def test_dequantized_weights_are_kept_if_those_of_a_set_fit_with_their_factors(
    modules, quantizer, rank: int, missing: int
) -> None:
    chosen = [configuration(2, 4), configuration(8, 4)]
    distinct = (LAYERS[0], LAYERS[0], LAYERS[1])
    dequantized = 4 * sum(layer.parameters for layer in distinct)
    factors = 4 * rank * sum(sum(layer.shape) for layer in distinct)
    cache = BoundedCache(dequantized + factors - missing)
    weights = QuantizedWeights(LAYERS, modules, quantizer, cache)
    weights.expect(chosen, rank)
    weights.activate(chosen[0])
    first = modules[0].weight.data
    weights.activate(chosen[1])
    weights.activate(chosen[0])
    assert quantizer.calls == 3
    assert (modules[0].weight.data_ptr() == first.data_ptr()) == (not missing)
    if missing:
        assert cache.counts.nbytes < dequantized / 2
    else:
        assert cache.counts.nbytes == dequantized


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
    assert found.nbytes == 4 * rank * sum(shape)
    best = torch.linalg.svdvals(residual)[rank:].norm()
    assert (residual - L1 @ L2).norm() <= 1.01 * best + 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_residual_factors_are_the_same_but_for_rounding_whatever_computes_them(seed: int) -> None:
    """Not their product alone: U, between them, was trained for their signs."""
    draw = torch.Generator().manual_seed(seed)
    residual = torch.randn(96, 64, generator=draw) * torch.linspace(0.1, 2, 64)
    rounding = 1 + 1e-6 * torch.randn(96, 64, generator=draw)
    nothing = torch.zeros(96, 64)
    # Another order of the rows is another order of all sums; a machine's differ no less.
    first, turned = (
        residual_factors(matrix, nothing, 8, torch.Generator().manual_seed(1))
        for matrix in (residual, (residual * rounding).flip(0))
    )
    for one, other in ((first.L1, turned.L1.flip(0)), (first.L2, turned.L2)):
        assert (one - other).norm() < 1e-2 * one.norm()


def test_a_residual_rank_above_the_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4, not 5"):
        residual_factors(torch.ones(4, 8), torch.ones(4, 8), 5, torch.Generator())
