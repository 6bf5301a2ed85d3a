"""Products of ggml's types, as they are timed."""

from __future__ import annotations

import pytest
from qsearch_coalora.llama_cpp.ggml import cpu_features, products
from qsearch_quantizers.gguf.ggml_types import TYPES
from qsearch_quantizers.gguf.quantizer import DEFAULT

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")


@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize("name", DEFAULT)
def test_all_types_are_multiplied(name: str, tokens: int) -> None:
    """With rows that some CPUs interleave, and repeated ones: 72 are more than are quantized."""
    with products(TYPES[name], (72, 256), copies=2, tokens=tokens, threads=1) as made:
        assert made.weights == 2 * 72 * 256
        made.compute()
        made.compute()


def test_it_is_known_what_ggml_was_built_for() -> None:
    assert cpu_features()
    assert all(name.isidentifier() for name in cpu_features().split())
