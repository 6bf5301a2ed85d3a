"""Quantized weights as ggml's types, which GGUF files hold."""

from __future__ import annotations

from qsearch_quantizers.integer.ggml_blocks import ggml_blocks, ggml_type
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.tensor_layout import SupportsGGMLTypes, SupportsIntegers
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.export.engines import planned_weight, require_integers

TYPES = (
    "GGUF has symmetric integers of 4 and 8 bits in groups of a multiple of 32 that divide a row,"
    " and the types of quantizer 'gguf'"
)


def require_ggml_types(quantizer: Quantizer, format: str) -> None:
    """Raise InputError if no type of ggml holds a quantizer's weights."""
    if not isinstance(quantizer, SupportsGGMLTypes | SupportsIntegers):
        raise InputError(
            f"--format {format} holds ggml's types; the weights of quantizer {quantizer.name!r} are"
            " neither such nor integers: quantizers such as 'gguf' and 'integer' are for it"
        )


def weight_type(
    quantizer: Quantizer, layer: LayerSpec, configuration: LayerConfiguration, format: str
) -> str | None:
    """Return the name of ggml's type that holds a layer's weight exactly, None without one."""
    if isinstance(quantizer, SupportsGGMLTypes):
        return quantizer.ggml_type(layer.shape, configuration)
    integers = require_integers(quantizer, format)
    weight = planned_weight(quantizer, layer, configuration, format)
    return ggml_type(integers.as_integers(weight))


def planned_type(job: ExportJob, position: int, format: str) -> str:
    """Return the name of ggml's type that holds a layer's weight, which is not quantized for it.

    Raises:
        InputError: If there is none that holds it exactly.
    """
    layer = job.layers[position]
    chosen = job.configuration[layer.name]
    name = weight_type(job.quantizer, layer, chosen, format)
    if name is None:
        raise InputError(
            f"--format {format}: GGUF has no type that holds layer {layer.name!r} exactly:"
            f" {dict(chosen)}; {TYPES}"
        )
    return name


def layer_blocks(job: ExportJob, position: int) -> Tensor:
    """Return a layer's weight in the bytes of its type (rows × bytes of a row), uint8, on the CPU.

    The job has a :func:`planned_type` of the layer.
    """
    quantizer, quantized = job.quantizer, job.quantized(position)
    if isinstance(quantizer, SupportsGGMLTypes):
        return quantizer.ggml_blocks(quantized).cpu()
    assert isinstance(quantizer, SupportsIntegers)
    return ggml_blocks(quantizer.as_integers(quantized))
