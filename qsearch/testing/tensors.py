"""Comparing tensors, with messages that tell what differs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qsearch.testing.base import require, require_equal


def require_same(what: str, found: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """Check that two tensors have the same type, shape and values.

    Args:
        what: What they are, for the message.
        found: What there is.
        expected: What there should be.
        tolerance: By which part of the greatest expected magnitude values may differ; 0 is bit for
            bit.

    Raises:
        AssertionError: If they differ.
    """
    require_equal(
        f"{what}: type and shape",
        (found.dtype, tuple(found.shape)),
        (expected.dtype, tuple(expected.shape)),
    )
    if torch.equal(found, expected) or not expected.numel():
        return
    wide = expected.double()
    off, most = (found.double() - wide).abs(), float(wide.abs().max())
    differ = int((~(off <= tolerance * most)).sum())  # NaN is neither more nor less.
    require(
        not differ,
        f"{what}: expected the same values{f' to {tolerance}' if tolerance else ''}, found"
        f" {differ} of {off.numel()} that differ, by up to {float(off.max()):.3g} where the"
        f" greatest is {most:.3g}",
    )


def require_same_tensors(
    what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 0.0
) -> None:
    """Check that named tensors are the same; see :func:`require_same`."""
    require_equal(f"{what}: names", sorted(found), sorted(expected))
    for name, tensor in expected.items():
        require_same(f"{what}: {name!r}", found[name], tensor, tolerance)


def require_finite(what: str, tensor: Tensor) -> None:
    """Check that a tensor holds neither NaN nor infinity."""
    bad = int((~tensor.isfinite()).sum())
    require(not bad, f"{what}: expected finite values, found {bad} that are not")
