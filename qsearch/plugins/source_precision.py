"""What is known of the files that a model is loaded from: two optional capabilities of trainers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_FULL_BITS = 16


@dataclass(frozen=True)
class SourcePrecision:
    """The types in which a model's files store its weights.

    Args:
        layers: Of the matrices in blocks, that of most weights first, such as ``bfloat16``.
        embeddings: Of matrices outside blocks, by the same order.
        bits: Mean bits of a weight in a block, with the scales that belong to it.
    """

    layers: tuple[str, ...]
    embeddings: tuple[str, ...]
    bits: float

    @property
    def is_quantized(self) -> bool:
        """Whether the files hold less than 16-bit weights, so that full precision is not that."""
        return self.bits < _FULL_BITS

    @property
    def text(self) -> str:
        """Such as ``float32``, or ``Q4_1 weights (5 bits), Q8_0 embeddings``."""
        layers, embeddings = _listed(self.layers), _listed(self.embeddings)
        if not self.is_quantized and (layers == embeddings or not embeddings):
            return layers
        bits = f" ({self.bits:.3g} bits)" if self.is_quantized else ""
        return f"{layers} weights{bits}" + (f", {embeddings} embeddings" if embeddings else "")

    @property
    def note(self) -> str | None:
        """What readers of results must know: that the original was quantized before."""
        if not self.is_quantized:
            return None
        return (
            f"the model's file is quantized already: {self.text}; 'full precision' means that of"
            " the file, and errors of quantization are errors against it"
        )


@runtime_checkable
class SupportsSourcePrecision(Protocol):
    """Optional for trainers. With it, results say how precise the original model was."""

    def source_precision(self) -> SourcePrecision | None:
        """Return it without loading weights; None while the files are not on this machine."""
        ...


@runtime_checkable
class SupportsTerms(Protocol):
    """Optional for trainers. With it, users read under which terms the model is."""

    def terms(self) -> str | None:
        """Return a sentence, or None if there is nothing that users must be told."""
        ...


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
