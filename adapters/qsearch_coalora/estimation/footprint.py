"""What an adapted model takes on a device."""

from __future__ import annotations

from collections import defaultdict

import torch
from qsearch_quantizers.packed.bit_packing import packed_layout
from qsearch_quantizers.packed.checkpoints import plan_checkpoint
from qsearch_quantizers.packed.stored_types import factor_plan, plan_of
from qsearch_quantizers.packed.tensor_files import Plan, longest_header, planned
from torch import Tensor

from qsearch.models.discovery import discover_layers
from qsearch.plugins.footprint import Footprint, RunningMemory
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.stored_bytes import stored_bytes
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch_coalora.export.job import AdapterJob, auto_class
from qsearch_coalora.models.loading import CAUSAL, skeleton

_COMPUTED = torch.float32
"""Type that exports are computed in, whatever they are stored in."""


def model_footprint(job: AdapterJob, tokens: int, has_adapter: bool) -> Footprint:
    """Return the footprint of a model's packed exports, from its tensors' shapes.

    The fixed bytes are exact but for the header, which names the types of a configuration's scales
    and where its tensors begin: it is that of the longest.
    """
    layers, dtype = job.adapted.layers, job.storage.dtype
    # By place, not by name: an output head that is tied to an embedding is not written either.
    own = {weight.data_ptr() for weight in job.adapted.weights.originals}
    state = {name: one for name, one in job.state().items() if one.data_ptr() not in own}
    kept = plan_checkpoint(job.module, state, {}, dtype).kept
    other, adapter, quantized = plan_of(kept, dtype), dict[str, Tensor](), dict[str, Tensor]()
    # A rank that is searched is part of the average bits; here it counts for the header alone.
    rank = job.adapted.options.rank * has_adapter
    fixed, bits = not job.adapted.options.searched_ranks, job.adapted.options.adapter_bits
    longest = {shape: _longest(job.quantizer, shape) for shape in {one.shape for one in layers}}
    for path, layer in zip(job.paths, layers, strict=True):
        factors = {} if layer.is_table else factor_plan(rank, layer.shape, dtype, bits)
        adapter |= {f"{path}.{key}": tensor for key, tensor in factors.items()}
        quantized |= {f"{path}.{key}": one for key, one in longest[layer.shape][0].items()}
    total = _bytes(other) + _bytes(adapter) + sum(longest[layer.shape][1] for layer in layers)
    loaded = plan_of({**other, **adapter}, _COMPUTED)
    return Footprint(
        quantized_weights=sum(layer.parameters for layer in layers),
        other_bytes=_bytes(other) + longest_header({**other, **adapter, **quantized}, total),
        adapter_bytes=_bytes(adapter) * fixed,
        running=_running_memory(job, tokens, _bytes(loaded) - _bytes(other) - _bytes(adapter)),
    )


def _bytes(plan: Plan) -> int:
    return sum(tensor.nbytes for tensor in plan.values())


def _longest(quantizer: Quantizer, shape: tuple[int, int]) -> tuple[Plan, int]:
    """Return the plan of a layer that takes most of a header, and the most bytes of any."""
    plans: list[Plan] = [{}]
    choices = quantizer.choices().layer_configurations
    if isinstance(quantizer, PackableQuantizer):
        for chosen in choices:
            stored = {
                name: packed_layout(layout)
                for name, layout in quantizer.layout(shape, chosen).items()
            }
            plans.append({name: planned(one.shape, one.dtype) for name, one in stored.items()})
    most = max(stored_bytes(quantizer, shape, chosen) for chosen in choices)
    return max(plans, key=lambda plan: longest_header(plan, most)), most


def _running_memory(job: AdapterJob, tokens: int, loading_bytes: int) -> RunningMemory:
    layers, itemsize = job.adapted.layers, _COMPUTED.itemsize
    outputs: defaultdict[int, int] = defaultdict(int)
    cached = 0
    # Of a model without an adapter, whose roles are known, and with all of its layers.
    for layer in discover_layers(skeleton(job.module.config, job.model)):
        outputs[layer.block] += layer.shape[0]
        if layer.role in ("key", "value"):
            cached += layer.shape[0]
    widest = max(layer.shape[1] for layer in layers)
    return RunningMemory(
        # Of a table, some rows are dequantized at a time.
        layer_bytes=max(layer.parameters for layer in job.adapted.adapted_layers) * itemsize,
        cache_bytes_per_token=cached * itemsize * (auto_class(job.module) == CAUSAL),
        activation_bytes_per_token=(max(outputs.values()) + widest) * itemsize,
        tokens=tokens,
        loading_bytes=loading_bytes,
    )
