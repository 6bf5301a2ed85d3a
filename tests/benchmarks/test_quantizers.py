"""The table of quantizers says what its rows load as."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("name", "configuration", "expected"),
    [
        ("integer, symmetric", "bits 4, group_size 64", "packed, compressed-tensors, GGUF"),
        ("integer, symmetric", "bits 3, group_size 64", "packed, compressed-tensors"),
        ("integer, asymmetric", "bits 4, group_size 64", "packed, compressed-tensors"),
        ("hqq", "bits 4, group_size 64", "packed"),
    ],
)
def test_a_row_names_the_formats_that_hold_it(name: str, configuration: str, expected: str) -> None:
    pytest.importorskip("bitsandbytes")
    from benchmarks.quantizers import loads_where

    assert loads_where(name, configuration) == expected
