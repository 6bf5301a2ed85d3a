"""What tools call the scheme of a layer: bits, group size and symmetry, or a type of ggml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qsearch_quantizers.integer.ggml_blocks import BLOCK, TYPES

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsShapeChoices
from qsearch.plugins.tensor_layout import PackableQuantizer, SupportsGGMLTypes, SupportsIntegers
from qsearch.space.configuration import LayerConfiguration

Shape = tuple[int, int]
Scheme = TypeVar("Scheme")


@dataclass(frozen=True)
class IntegerScheme:
    """Integers on a grid, with one scale for a group of a row; None is one scale for a row."""

    bits: int
    group_size: int | None
    symmetric: bool

    def __str__(self) -> str:
        """Return it as messages have it."""
        group = "one scale a row" if self.group_size is None else f"group_size {self.group_size}"
        return f"bits {self.bits}, {group}, {'symmetric' if self.symmetric else 'asymmetric'}"

    def of_row(self, columns: int) -> IntegerScheme:
        """Return the same scheme for rows of some input features: no group is longer."""
        whole = self.group_size is not None and self.group_size >= columns
        return IntegerScheme(self.bits, None, self.symmetric) if whole else self


def integer_scheme(
    quantizer: Quantizer, shape: Shape, configuration: LayerConfiguration
) -> IntegerScheme | None:
    """Return the scheme of a weight (output × input features), or None if it has no integers."""
    if not isinstance(quantizer, SupportsIntegers) or not isinstance(quantizer, PackableQuantizer):
        return None
    import torch

    tensors = {
        name: torch.empty(layout.shape, dtype=layout.dtype, device="meta")
        for name, layout in quantizer.layout(shape, configuration).items()
    }
    try:
        weight = quantizer.as_integers(QuantizedTensor(tensors, shape, configuration))
    except InputError:  # Some of its weights are none.
        return None
    scheme = IntegerScheme(weight.bits, weight.group_size, weight.zero_points is None)
    return scheme.of_row(shape[1])


def ggml_type(quantizer: Quantizer, shape: Shape, configuration: LayerConfiguration) -> str | None:
    """Return the name of the ggml type that a weight is stored as, or None if there is none.

    Integers have one where llama.cpp's own have as many bits and weights for a scale, so that the
    file is as large as the study says.
    """
    if isinstance(quantizer, SupportsGGMLTypes):
        return quantizer.ggml_type(shape, configuration)
    scheme = integer_scheme(quantizer, shape, configuration)
    if scheme is None or not scheme.symmetric or scheme.group_size != BLOCK or shape[1] % BLOCK:
        return None
    return TYPES.get(scheme.bits)


def choices_by_scheme(
    quantizer: Quantizer,
    shape: Shape,
    scheme_of: Callable[[Quantizer, Shape, LayerConfiguration], Scheme | None],
) -> dict[Scheme, LayerConfiguration]:
    """Return the layer configurations that a weight can have, by scheme; of one, the first."""
    choices: dict[Scheme, LayerConfiguration] = {}
    for configuration in quantizer.choices().layer_configurations:
        if isinstance(quantizer, SupportsShapeChoices) and not quantizer.takes(
            shape, configuration
        ):
            continue
        scheme = scheme_of(quantizer, shape, configuration)
        if scheme is not None:
            choices.setdefault(scheme, configuration)
    return choices
