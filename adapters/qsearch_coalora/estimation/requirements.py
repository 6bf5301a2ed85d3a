"""What training needs of a machine, told from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from qsearch.plugins.protocols import Quantizer, Requirements
from qsearch.space.layers import LayerSpec
from qsearch_coalora.estimation.workload import (
    Workload,
    floating_point_operations,
    work_parameters,
)
from qsearch_coalora.training.calibration import moment_bytes
from qsearch_coalora.training.device import missing_device
from qsearch_coalora.training.options import TrainingOptions

_FLOAT_BYTES = 4
_TRAINED_COPIES = 4
"""Value, gradient and AdamW's two moments."""

_ACTIVATION_SHARE = 0.5
"""Least memory of activations and temporary tensors, as a share of the weights; a rule of thumb."""


def adapter_bytes(layers: Sequence[LayerSpec], rank: int) -> int:
    """Return the bytes of a LoRA's factors for some layers."""
    return rank * sum(sum(layer.shape) for layer in layers) * _FLOAT_BYTES


def estimate_requirements(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    quantizer: Quantizer,
    options: TrainingOptions,
    configurations_per_step: int,
    workload: Workload | None,
    notes: Sequence[str],
) -> Requirements:
    """Estimate the peak memory of training, and the operations of training and evaluating.

    Memory holds the model in float32, one dequantized copy of its quantizable weights, the bounded
    cache of quantized weights, the adapter with its optimizer, the moments of inputs that the
    quantizer needs, and for each layer the inputs and outputs of the tokens that share a backward
    pass.

    Args:
        model: The model, on the meta device.
        layers: Its quantizable layers.
        quantizer: The quantizer.
        options: The trainer's options.
        configurations_per_step: Configurations that share the examples of a batch.
        workload: The task's workload, if the task tells it.
        notes: Sentences for the user.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    quantizable = sum(layer.parameters for layer in layers)
    weights = (parameters + quantizable) * _FLOAT_BYTES
    activations = weights * _ACTIVATION_SHARE
    notes = list(notes)
    if workload is not None:
        examples = math.ceil(options.batch_size / configurations_per_step)
        features = sum(sum(layer.shape) for layer in layers)
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
        if (missing := missing_device(options.device)) is not None:
            notes.append(f"{missing}; run the study on one that has it")
    memory = (
        weights
        + activations
        + adapter_bytes(layers, options.rank) * _TRAINED_COPIES
        + options.cache_mebibytes * 2**20
        + moment_bytes(quantizer, layers)
    )
    if workload is None:
        return Requirements(parameters, int(memory), notes=tuple(notes))
    if workload.evaluated_examples is None:
        notes.append(
            "the time is not estimated, since only the data tells how many examples an evaluation"
            " has; bound them in the task's options"
        )
    training, evaluation = floating_point_operations(work_parameters(model), options, workload)
    return Requirements(parameters, int(memory), training, evaluation, notes=tuple(notes))
