"""What training needs of a machine, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer, Requirements
from qsearch.plugins.quantizer_capabilities import needs_diagonal, needs_inputs
from qsearch.space.layers import FUSED_ROLES, LayerSpec, tied_groups
from qsearch_coalora.models.architectures import ModelShape
from qsearch_coalora.settings.device import require_device
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.tasks.workload import Workload

_STEP_COST = 3
"""Forward passes that a training step costs: one forward, and two in the backward pass. Frozen
weights need no gradient of their own, but the adapter's products take up much of that."""

_FLOAT_BYTES = 4
_TRAINED_COPIES = 4
"""Value, gradient and AdamW's two moments."""

_ACTIVATION_SHARE = 0.5
"""Least memory of activations and temporary tensors, as a share of the weights; a rule of thumb."""


def adapter_bytes(layers: Sequence[LayerSpec], rank: int) -> int:
    """Return the bytes of a LoRA's factors for some layers; tables have none."""
    return rank * sum(sum(layer.shape) for layer in layers if not layer.is_table) * _FLOAT_BYTES


def entry_bytes(quantizer: Quantizer, layers: Sequence[LayerSpec], options: TrainingOptions) -> int:
    """Return the bytes of the factors that each layer configuration of each layer has, if any."""
    rank = options.entry_rank
    return adapter_bytes(layers, rank) * quantizer.choices().size if rank else 0


def moment_bytes(quantizer: Quantizer, layers: Sequence[LayerSpec], by_gradients: bool) -> int:
    """Return the bytes that moments take: one for all layers of a block that read one tensor.

    By gradients, each layer has its own. A table's is that of inputs of moment 1.
    """
    if not needs_inputs(quantizer):
        return 0
    groups = tied_groups(layers, () if by_gradients else FUSED_ROLES)
    widths = [layers[group.members[0]].shape[1] for group in groups]
    if needs_diagonal(quantizer):
        return sum(widths) * _FLOAT_BYTES
    return sum(width**2 for width in widths) * _FLOAT_BYTES


def estimate_requirements(
    shape: ModelShape,
    layers: Sequence[LayerSpec],
    quantizer: Quantizer,
    options: TrainingOptions,
    workload: Workload | None,
    notes: Sequence[str],
    by_gradients: bool = False,
) -> Requirements:
    """Estimate the peak memory of training, and the operations of training and evaluating.

    Memory holds the model in float32, one dequantized copy of its quantizable weights, the bounded
    cache of quantized weights, the adapter with its optimizer, and with those of factors that each
    layer configuration has for itself, the moments of inputs that the quantizer needs, and for each
    layer the inputs and outputs of the tokens that share a backward
    pass.
    """
    parameters = shape.parameters
    quantizable = sum(layer.parameters for layer in layers)
    weights = (parameters + quantizable) * _FLOAT_BYTES
    activations = weights * _ACTIVATION_SHARE
    notes = list(notes)
    if workload is not None:
        examples = math.ceil(options.batch_size / options.batch_configurations)
        features = sum(sum(layer.shape) for layer in layers if not layer.is_table)
        saved = features * examples * workload.example_tokens * _FLOAT_BYTES
        activations = max(activations, saved)
        notes += workload.notes
    codes = quantizable / 2**20
    if options.cache_mebibytes < codes:
        notes.append(
            f"trainer.cache_mebibytes {options.cache_mebibytes} is less than the {codes:.0f} MiB of"
            " one configuration at 8 bits, so most weights are quantized again at each switch"
        )
    if options.device != "cpu":
        notes.append(
            f"the study runs on {options.device}: the memory is needed there, and a time above is"
            " what the CPU would take"
        )
        try:
            require_device(options.device)
        except InputError as error:
            notes.append(f"{error}; run the study on one that has it")
    memory = (
        weights
        + activations
        + adapter_bytes(layers, options.rank) * _TRAINED_COPIES
        + entry_bytes(quantizer, layers, options) * _TRAINED_COPIES
        + options.cache_mebibytes * 2**20
        + moment_bytes(quantizer, layers, by_gradients)
    )
    needs = Requirements(parameters, int(memory), notes=tuple(notes))
    if workload is None:
        return needs
    if workload.evaluated_examples is None:
        note = (
            "no time estimate: the number of evaluated examples is known only from the data; limit"
            " it in the task's options"
        )
        return replace(needs, notes=(*notes, note))
    # A forward pass takes 2 operations per parameter and token; attention's own products and
    # quantization are left out, padding is counted as tokens. Embeddings are only looked up.
    example = 2.0 * (parameters - shape.embedded) * workload.example_tokens
    step = _STEP_COST * example * options.batch_size * options.accumulation_steps
    return replace(
        needs,
        training_flops=(step * options.round_steps(1), step * options.round_steps(2)),
        evaluation_flops=example * workload.evaluated_examples,
    )
