"""ggml's types of quantized weights: their blocks, and which of them a row of weights fits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GGMLType:
    """A type of weights: ``block`` neighbours of a row take ``nbytes`` bytes, scales included.

    ``number`` is what GGUF files and ggml's functions call it.

    Args:
        scales: Bytes of a block at which the float16 numbers begin that its weights are multiples
            of: of codes times their own scales, and of offsets, if it has them.
    """

    name: str
    number: int
    block: int
    nbytes: int
    scales: tuple[int, ...] = ()

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return 8 * self.nbytes / self.block

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of a row, which must be whole blocks."""
        return columns // self.block * self.nbytes


TYPES = {
    one.name: one
    for one in (
        GGMLType("IQ2_XXS", 16, 256, 66, (0,)),
        GGMLType("IQ2_XS", 17, 256, 74, (0,)),
        GGMLType("IQ2_S", 22, 256, 82, (0,)),
        GGMLType("Q2_K", 10, 256, 84, (80, 82)),
        GGMLType("IQ3_XXS", 18, 256, 98, (0,)),
        GGMLType("Q3_K", 11, 256, 110, (108,)),
        GGMLType("IQ3_S", 21, 256, 110, (0,)),
        GGMLType("MXFP4", 39, 32, 17),
        GGMLType("IQ4_XS", 23, 256, 136, (0,)),
        GGMLType("Q4_0", 2, 32, 18, (0,)),
        GGMLType("IQ4_NL", 20, 32, 18, (0,)),
        GGMLType("Q4_K", 12, 256, 144, (0, 2)),
        GGMLType("Q4_1", 3, 32, 20, (0, 2)),
        GGMLType("Q5_0", 6, 32, 22, (0,)),
        GGMLType("Q5_K", 13, 256, 176, (0, 2)),
        GGMLType("Q5_1", 7, 32, 24, (0, 2)),
        GGMLType("Q6_K", 14, 256, 210, (208,)),
        GGMLType("Q8_0", 8, 32, 34, (0,)),
    )
}
"""The types that a study can use, by rising bits; of equal bits, the one of less error is last."""

FLOAT16 = GGMLType("F16", 1, 1, 2)

_FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama-quantize gives rows that are no multiple of 256, instead of what they would have; the
types IQ of such blocks become IQ4_NL."""


def fits(name: str, columns: int) -> bool:
    """Return whether rows of so many weights are whole blocks of a type."""
    return columns % TYPES[name].block == 0


def stored_type(name: str, columns: int) -> GGMLType:
    """Return the type that llama-quantize gives a weight, of which another was wanted."""
    if not fits(name, columns) and TYPES[name].block == 256:
        name = _FALLBACKS.get(name, "IQ4_NL")
    return TYPES[name] if fits(name, columns) else FLOAT16
