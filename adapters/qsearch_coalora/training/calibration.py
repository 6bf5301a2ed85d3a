"""Second moments of the layers' inputs, for quantizers that suit weights to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from qsearch.plugins.capabilities import needs_inputs
from qsearch.plugins.protocols import Quantizer
from qsearch.space.layers import FUSED_ROLES, LayerSpec, tied_groups
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.training.sampling import BatchStream
from qsearch_coalora.training.schedule import seeds
from qsearch_coalora.weights.input_norm import with_inputs

_FLOAT_BYTES = 4


def calibration_batches(
    stream: Callable[[torch.Generator], BatchStream], seed: int, count: int
) -> list[Mapping[str, Tensor]]:
    """Return the training batches that inputs are measured on: the first of round 1.

    Args:
        stream: Returns training batches, drawn by a generator.
        seed: The study's seed; equal seeds give equal batches.
        count: How many.
    """
    batches = stream(torch.Generator().manual_seed(seeds(seed, 0)[0]))
    return [next(batches) for _ in range(count)]


def calibrate(
    adapted: AdaptedModel, quantizer: Quantizer, stream: Callable[[torch.Generator], BatchStream]
) -> None:
    """Measure the inputs of the base model's layers, if the quantizer needs them.

    They are those of the model in full precision: what precedes a layer is quantized differently
    in every configuration.

    Args:
        adapted: The adapted model; weights are quantized by these inputs from now on.
        quantizer: Its quantizer.
        stream: Returns training batches, drawn by a generator.
    """
    if not needs_inputs(quantizer):
        return
    count = adapted.options.calibration_batches
    with adapted.base_model():
        batches = calibration_batches(stream, adapted.seed, count)
        moments = second_moments(adapted.lora_layers, adapted.logits, batches)
    adapted.weights.calibrate(moments)


@torch.no_grad()
def second_moments(
    modules: Sequence[nn.Linear],
    run: Callable[[Mapping[str, Tensor]], object],
    batches: Iterable[Mapping[str, Tensor]],
) -> list[Tensor]:
    """Return each layer's E[x·xᵀ] over its inputs x.

    Layers that read the same tensor one after the other, such as query, key and value, share one
    result, so it takes memory once.

    Moments are the same bit for bit on the same machine with the same number of threads. With
    another number, PyTorch may round the sums of matrix products otherwise, here and in the model.

    Args:
        modules: The layers' linear modules; inputs (… × input features).
        run: Runs the model on a batch.
        batches: Batches; where one has an ``attention_mask`` (examples × positions), padding does
            not count.

    Returns:
        For each layer a moment (input features × input features), float32 and on the model's
        device; zero where it had no input.
    """
    sums: dict[tuple[int, ...], Tensor] = {}
    counts: dict[tuple[int, ...], int] = {}
    readers: list[int] = []
    read, product = torch.empty(0), torch.empty(0)

    def add() -> None:
        key = tuple(readers)
        sums[key] = sums[key].add_(product) if key in sums else product
        counts[key] = counts.get(key, 0) + len(read)
        readers.clear()

    def use(position: int, inputs: Tensor) -> None:
        nonlocal read, product
        if inputs is not read or position in readers:
            if readers:
                add()
            # Now: a model may change the tensor in place before another layer runs.
            read, product = inputs, inputs.T @ inputs
        readers.append(position)

    with_inputs(modules, run, batches, use)
    if readers:
        add()
    means = {key: total.div_(max(counts[key], 1)) for key, total in sums.items()}
    return [_mean(position, means, counts, module) for position, module in enumerate(modules)]


def _mean(
    position: int,
    means: Mapping[tuple[int, ...], Tensor],
    counts: Mapping[tuple[int, ...], int],
    module: nn.Linear,
) -> Tensor:
    """Return a layer's mean over all that it read, together with some layers or with others."""
    keys = [key for key in means if position in key]
    if not keys:
        return torch.zeros(()).expand(module.in_features, module.in_features)
    if len(keys) == 1:
        return means[keys[0]]
    total = max(sum(counts[key] for key in keys), 1)
    mean = torch.zeros_like(means[keys[0]])
    for key in keys:
        mean.add_(means[key], alpha=counts[key] / total)
    return mean


def moment_bytes(quantizer: Quantizer, layers: Sequence[LayerSpec]) -> int:
    """Return the bytes that moments take: one for all layers of a block that read one tensor.

    Args:
        quantizer: The quantizer; one that needs no inputs takes none.
        layers: The layers.
    """
    if not needs_inputs(quantizer):
        return 0
    firsts = [layers[group.members[0]] for group in tied_groups(layers, FUSED_ROLES)]
    return sum(layer.shape[1] ** 2 for layer in firsts) * _FLOAT_BYTES
