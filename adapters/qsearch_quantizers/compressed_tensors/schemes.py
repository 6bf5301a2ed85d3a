"""Schemes of weights by the names that engines have for them: integers and 8-bit floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scheme = Literal[
    "W2A16-channel",
    "W2A16-channel-asym",
    "W2A16-g128",
    "W2A16-g128-asym",
    "W2A16-g64",
    "W2A16-g64-asym",
    "W2A16-g32",
    "W2A16-g32-asym",
    "W3A16-channel",
    "W3A16-channel-asym",
    "W3A16-g128",
    "W3A16-g128-asym",
    "W3A16-g64",
    "W3A16-g64-asym",
    "W3A16-g32",
    "W3A16-g32-asym",
    "W4A16-channel",
    "W4A16-channel-asym",
    "W4A16-g128",
    "W4A16-g128-asym",
    "W4A16-g64",
    "W4A16-g64-asym",
    "W4A16-g32",
    "W4A16-g32-asym",
    "FP8",
    "W8A16-channel",
    "W8A16-channel-asym",
    "W8A16-g128",
    "W8A16-g128-asym",
    "W8A16-g64",
    "W8A16-g64-asym",
    "W8A16-g32",
    "W8A16-g32-asym",
]
"""By falling error: integers of some bits in groups, or with one scale a row (``channel``), and
floating point of 8 bits (e4m3) with one scale a row. Activations keep 16 bits."""

DEFAULT: tuple[Scheme, ...] = (
    "W4A16-channel",
    "W4A16-g128",
    "W4A16-g128-asym",
    "W4A16-g64",
    "W4A16-g64-asym",
    "W4A16-g32",
    "W4A16-g32-asym",
    "FP8",
    "W8A16-channel",
    "W8A16-g128",
    "W8A16-g32",
)
"""Those that vLLM has kernels for on all NVIDIA GPUs that it supports."""


@dataclass(frozen=True)
class Grouping:
    """What a scheme's name says; a group of None is a whole row."""

    bits: int
    group: int | None
    asymmetric: bool
    is_float: bool


def grouping_of(scheme: str) -> Grouping:
    """Return what the name of a scheme says."""
    if scheme == "FP8":
        return Grouping(8, None, asymmetric=False, is_float=True)
    bits, group, *rest = scheme.split("-")
    size = None if group == "channel" else int(group.removeprefix("g"))
    return Grouping(int(bits[1]), size, asymmetric=bool(rest), is_float=False)
