"""Assertions that both kits make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from qsearch.errors import InputError

MARGIN = 0.1
"""By which part an error may rise with the bits. Formats with a shared exponent have an error that
is a little larger with a smaller group."""


def assert_same(actual: Tensor, expected: Tensor, what: str, tolerance: float = 0.0) -> None:
    """Assert that types, shapes and values agree, bit for bit by default.

    Args:
        actual: On any device.
        expected: On any device.
        what: What they are, for the message.
        tolerance: By which part of the greatest expected magnitude values may differ.
    """
    largest = float(expected.double().abs().max()) if tolerance and expected.numel() else 0.0
    torch.testing.assert_close(
        actual,
        expected,
        rtol=0.0,
        atol=tolerance * largest,
        check_device=False,
        msg=lambda difference: f"{what}: {difference}",
    )


def assert_same_tensors(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, tolerance: float = 0.0
) -> None:
    """Assert that names agree, and tensors as :func:`assert_same` does."""
    assert sorted(actual) == sorted(expected), f"{what}: names"
    for name, tensor in expected.items():
        assert_same(actual[name], tensor, f"{what}: {name!r}", tolerance)


def assert_refused(call: Callable[[], object], what: str) -> None:
    """Assert that a call raises InputError; other exceptions pass through."""
    try:
        call()
    except InputError:
        return
    pytest.fail(f"{what}: expected InputError, but it is taken")


def assert_more_bits_pay(bits: npt.ArrayLike, errors: npt.ArrayLike) -> None:
    """Assert that the most storage bits give at most the error of the fewest, and a margin."""
    stored, actual = np.asarray(bits), np.asarray(errors)
    fewest, most = (actual[stored == end].mean() for end in (stored.min(), stored.max()))
    assert most <= (1 + MARGIN) * fewest, f"error with {stored.max():g} and {stored.min():g} bits"
