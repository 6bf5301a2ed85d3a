"""What an adapted model takes on a device."""

from __future__ import annotations

import math
from collections import defaultdict

from qsearch_quantizers.packed.bit_packing import packed_layout

from qsearch.models.discovery import discover_layers
from qsearch.plugins.capabilities import storage_bits_of
from qsearch.plugins.footprint import Footprint, RunningMemory
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch_coalora.estimation.requirements import adapter_bytes
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.models.loading import CAUSAL, skeleton

_FLOAT_BYTES = 4
_HEADER_BYTES = 160
"""What a tensor takes in a file in addition to its elements, most of it its name in the header."""

_TENSORS_PER_LAYER = 6
"""Of a packed layer: at most three of the quantizer, two of the adapter, a bias."""


def _padding(quantizer: Quantizer, shape: tuple[int, int]) -> int:
    """Return the most bytes that any layer configuration stores above its storage bits."""
    if not isinstance(quantizer, PackableQuantizer):
        return 0
    most, weights = 0.0, shape[0] * shape[1]
    for chosen in quantizer.choices().layer_configurations:
        stored = 0
        for layout in quantizer.layout(shape, chosen).values():
            packed = packed_layout(layout)
            stored += packed.count * packed.dtype.itemsize
        most = max(most, stored - storage_bits_of(quantizer, shape, chosen) * weights / 8)
    return math.ceil(most)


def model_footprint(job: AdapterJob, tokens: int) -> Footprint:
    """Return the footprint of a model's exports of any configuration, from its tensors' shapes."""
    adapted = job.adapted
    # By place, not by name: an output head that is tied to an embedding is not written either.
    quantized = {weight.data_ptr() for weight in adapted.weights.originals}
    state = {
        name: tensor for name, tensor in job.state().items() if tensor.data_ptr() not in quantized
    }
    # Tied weights are one tensor under several names.
    other = {tensor.data_ptr(): tensor.nbytes for tensor in state.values()}
    padding = {
        shape: _padding(job.quantizer, shape) for shape in {one.shape for one in adapted.layers}
    }
    headers = (len(state) + len(adapted.layers) * _TENSORS_PER_LAYER) * _HEADER_BYTES
    outputs: defaultdict[int, int] = defaultdict(int)
    cached = 0
    # Of a model without an adapter, whose roles are known, and with all of its layers.
    for layer in discover_layers(skeleton(job.module.config, job.model)):
        outputs[layer.block] += layer.shape[0]
        if layer.role in ("key", "value"):
            cached += layer.shape[0]
    widest = max(layer.shape[1] for layer in adapted.layers)
    return Footprint(
        quantized_weights=sum(layer.parameters for layer in adapted.layers),
        other_bytes=sum(other.values())
        + headers
        + sum(padding[layer.shape] for layer in adapted.layers),
        adapter_bytes=adapter_bytes(adapted.layers, adapted.options.rank) * job.has_adapter,
        running=RunningMemory(
            # Of a table, some rows are dequantized at a time.
            layer_bytes=max(layer.parameters for layer in adapted.adapted_layers) * _FLOAT_BYTES,
            cache_bytes_per_token=cached * _FLOAT_BYTES * (auto_class(job.module) == CAUSAL),
            activation_bytes_per_token=(max(outputs.values()) + widest) * _FLOAT_BYTES,
            tokens=tokens,
        ),
    )
