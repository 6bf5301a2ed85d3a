"""What every tool is given, and what it writes; imports nothing but the standard library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

MODEL, TEXTS, ALLOCATIONS = "model", "texts.json", "allocations.json"

Allocation = Mapping[str, int]
"""Bits of each layer, by its module path."""


@dataclass(frozen=True)
class Inputs:
    """A model to quantize, in a folder of transformers, and how.

    Args:
        plan: YAML of the study that has the same model, text and integers.
        sizes: Average bits of the quantized weights, scales of 16 bits among them, not to be
            exceeded.
        bits: Those that a layer may have.
        group_size: Weights that share a scale.
        tied: Names of layers of a block that have equal bits, for each group of them.
        tokens: The calibration text: sequences of equal length.
    """

    plan: str
    sizes: tuple[float, ...]
    bits: tuple[int, ...]
    group_size: int
    tied: tuple[tuple[str, ...], ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def first_quarter(self) -> tuple[tuple[int, ...], ...]:
        """The text of tools that run the model for each choice of each layer: hours with all."""
        return self.tokens[: len(self.tokens) // 4]

    @property
    def scale_bits(self) -> float:
        """Bits that scales take, a weight."""
        return 16 / self.group_size

    def write(self, folder: Path) -> None:
        """Write ``inputs.json``."""
        (folder / "inputs.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_inputs(folder: Path) -> Inputs:
    """Read ``inputs.json``."""
    values = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    values["tied"] = tuple(map(tuple, values["tied"]))
    values["tokens"] = tuple(map(tuple, values["tokens"]))
    return Inputs(**{**values, "sizes": tuple(values["sizes"]), "bits": tuple(values["bits"])})


def write_allocations(to: Path, allocations: Mapping[float, Allocation]) -> None:
    """Write what a tool chose, for each size."""
    text = json.dumps({str(size): dict(one) for size, one in allocations.items()})
    to.write_text(text, encoding="utf-8")


def read_allocations(path: Path) -> dict[float, Allocation]:
    """Read what a tool chose."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return {float(size): one for size, one in values.items()}
