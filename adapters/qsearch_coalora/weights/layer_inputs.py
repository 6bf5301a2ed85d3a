"""What the layers of a model are given: their inputs as it runs, and the second moments of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn


def with_inputs(
    modules: Sequence[nn.Module],
    run: Callable[[Mapping[str, Tensor]], object],
    batches: Iterable[Mapping[str, Tensor]],
    use: Callable[[int, Tensor], None],
) -> None:
    """Give each layer's position and float32 inputs (tokens × features) away as the model runs.

    So the inputs of one layer are held at a time, not those of all. Layers that read the same
    tensor one after the other get the same object. Padding, as a batch's ``attention_mask``
    (examples × positions) says, is left out.
    """
    last: tuple[Tensor, Tensor] | None = None

    def hook(position: int, mask: Tensor | None) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def given(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            nonlocal last
            inputs = arguments[0]
            if last is None or last[0] is not inputs:
                last = inputs, _tokens(inputs, mask)
            use(position, last[1])

        return given

    for batch in batches:
        last, mask = None, batch.get("attention_mask")
        with ExitStack() as handles:
            for position, module in enumerate(modules):
                handles.enter_context(module.register_forward_pre_hook(hook(position, mask)))
            run(batch)


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return inputs (tokens × features) without padding."""
    if mask is not None and inputs.shape[:-1] == mask.shape:
        inputs = inputs[mask.to(inputs.device).bool()]
    return inputs.reshape(-1, inputs.shape[-1]).float()


def mean_squares(moment: Tensor) -> Tensor:
    """Return the mean squares of inputs (input features) of their moment, or of its diagonal."""
    return moment if moment.ndim == 1 else moment.diagonal()


@torch.no_grad()
def second_moments(
    modules: Sequence[nn.Linear],
    run: Callable[[Mapping[str, Tensor]], object],
    batches: Iterable[Mapping[str, Tensor]],
    diagonal: bool = False,
) -> list[Tensor]:
    """Return each layer's E[x·xᵀ] over its inputs x, or the diagonals of them alone.

    Layers that read the same tensor one after the other, such as query, key and value, share one
    result, so it takes memory once.

    Moments are the same bit for bit on the same machine with the same number of threads. With
    another number, PyTorch may round the sums of matrix products otherwise, here and in the model.

    Returns:
        For each layer a moment (input features × input features), or a diagonal (input features),
        float32 and on the model's device; zero where it had no input.
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
            read = inputs
            product = inputs.square().sum(dim=0) if diagonal else inputs.T @ inputs
        readers.append(position)

    with_inputs(modules, run, batches, use)
    if readers:
        add()
    means = {key: total.div_(max(counts[key], 1)) for key, total in sums.items()}
    return [
        _mean(position, means, counts, (module.in_features,) * (1 if diagonal else 2))
        for position, module in enumerate(modules)
    ]


def _mean(
    position: int,
    means: Mapping[tuple[int, ...], Tensor],
    counts: Mapping[tuple[int, ...], int],
    shape: tuple[int, ...],
) -> Tensor:
    """Return a layer's mean over all that it read, together with some layers or with others."""
    keys = [key for key in means if position in key]
    if not keys:
        return torch.zeros(()).expand(shape)
    if len(keys) == 1:
        return means[keys[0]]
    total = max(sum(counts[key] for key in keys), 1)
    mean = torch.zeros_like(means[keys[0]])
    for key in keys:
        mean.add_(means[key], alpha=counts[key] / total)
    return mean
