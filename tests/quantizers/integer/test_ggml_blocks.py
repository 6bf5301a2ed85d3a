"""Integer weights in ggml's blocks, read by the package gguf."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_quantizers.integer.ggml_blocks import ggml_blocks, ggml_type
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.space.configuration import LayerConfiguration

gguf = pytest.importorskip("gguf")
INTEGER = Integer(Integer.Options(scheme=("symmetric", "asymmetric")))


def integers(rows, columns, bits, group_size, scheme="symmetric", seed=0):
    layer = LayerConfiguration({"bits": bits, "group_size": group_size, "scheme": scheme})
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    quantized = INTEGER.quantize(weight, layer)
    return INTEGER.as_integers(quantized), INTEGER.dequantize(quantized)


@given(
    rows=st.integers(1, 9),
    blocks=st.integers(1, 7),
    bits=st.sampled_from([4, 8]),
    group_size=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 99),
)
def test_gguf_dequantizes_blocks_to_the_same_weight(rows, blocks, bits, group_size, seed):
    weight, expected = integers(rows, 32 * blocks, bits, group_size, seed=seed)
    kind = gguf.GGMLQuantizationType[ggml_type(weight)]
    actual = gguf.quants.dequantize(ggml_blocks(weight).numpy(), kind)
    assert torch.equal(torch.from_numpy(actual.copy()), expected)


@pytest.mark.parametrize(
    ("columns", "bits", "scheme"),
    [(64, 2, "symmetric"), (64, 3, "symmetric"), (48, 4, "symmetric"), (64, 4, "asymmetric")],
)
def test_other_integers_have_no_type(columns, bits, scheme):
    assert ggml_type(integers(4, columns, bits, 32, scheme)[0]) is None
