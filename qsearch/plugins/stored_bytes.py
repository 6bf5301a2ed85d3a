"""Bytes that quantized weights take in a file, from shape and layer configuration alone."""

from __future__ import annotations

import math

from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import storage_bits_of
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import LayerConfiguration


def stored_bytes(
    quantizer: Quantizer, shape: tuple[int, int], configuration: LayerConfiguration
) -> int:
    """Return the bytes of a quantized weight (output × input features) as the format packed has it.

    Tensors are filled up to whole bytes and whole scale blocks, so that it may be a few bytes more
    than the storage bits. A quantizer whose weights cannot be packed is taken at its storage bits.
    """
    if isinstance(quantizer, PackableQuantizer):
        return sum(
            layout.stored_bytes for layout in quantizer.layout(shape, configuration).values()
        )
    return math.ceil(shape[0] * shape[1] * storage_bits_of(quantizer, shape, configuration) / 8)
