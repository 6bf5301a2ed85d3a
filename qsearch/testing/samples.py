"""Weights, layer configurations and configurations that the kits try."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.quantizer_capabilities import quantize_weight
from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec

TYPICAL = 0.02
"""Standard deviation of the weights of a typical linear layer."""


def normal_weight(rows: int, columns: int, std: float = TYPICAL, seed: int = 0) -> Tensor:
    """Return normal weights (rows × columns), float32, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    return std * torch.randn(rows, columns, generator=generator)


def sample_layer_configurations(choices: Choices, count: int) -> tuple[LayerConfiguration, ...]:
    """Return all layer configurations, or the corners of each knob and ``count`` others.

    The corners are those with each knob at its first value, or each at its last, and those that
    differ from them in one knob, which is at its other end. The others are the additive recurrence
    of Roberts (2018, "The unreasonable effectiveness of quasirandom sequences"), which is even over
    each knob's values and over pairs of them; a stride through the choice indices is not.
    """
    if choices.size <= count:
        return choices.layer_configurations
    ratio = 1.0  # The root of x^(knobs + 1) = x + 1.
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (len(choices.knobs) + 1))
    steps = [ratio**-place for place in range(1, len(choices.knobs) + 1)]
    sample: set[int] = set()
    for number in itertools.count():
        if len(sample) == count:
            break
        values = {
            knob.name: knob.values[int((0.5 + number * step) % 1 * len(knob.values))]
            for knob, step in zip(choices.knobs, steps, strict=True)
        }
        sample.add(choices.index(values))
    return tuple(choices.layer_configuration(index) for index in sorted(sample | _corners(choices)))


def _corners(choices: Choices) -> set[int]:
    first = {knob.name: knob.values[0] for knob in choices.knobs}
    last = {knob.name: knob.values[-1] for knob in choices.knobs}
    moved = [first | {name: last[name]} for name in choices.names]
    moved += [last | {name: first[name]} for name in choices.names]
    return {choices.index(values) for values in (first, last, *moved)}


def draw_configurations(
    layers: Sequence[LayerSpec], choices: Choices, count: int
) -> tuple[Configuration, ...]:
    """Return distinct configurations with each layer's choice drawn at random; always the same.

    Raises:
        ValueError: If there are fewer.
    """
    if choices.size ** len(layers) < count:
        raise ValueError(f"{len(layers)} layers of {choices.size} choices: less than {count}")
    draw = random.Random(0)  # noqa: S311
    drawn: dict[Configuration, None] = {}
    while len(drawn) < count:
        indices = [draw.randrange(choices.size) for _ in layers]
        layer_configurations = map(choices.layer_configuration, indices)
        names = (layer.name for layer in layers)
        drawn[Configuration(dict(zip(names, layer_configurations, strict=True)))] = None
    return tuple(drawn)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch that a process has for all, for a while."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def quantize(
    quantizer: Quantizer, weight: Tensor, configuration: LayerConfiguration
) -> QuantizedTensor:
    """Quantize a weight; for inputs that are uncorrelated, if the quantizer needs its inputs."""
    moment = torch.eye(weight.shape[-1], device=weight.device)
    return quantize_weight(quantizer, weight, configuration, moment)


def round_trip(quantizer: Quantizer, weight: Tensor, configuration: LayerConfiguration) -> Tensor:
    """Return a weight, quantized and dequantized."""
    return quantizer.dequantize(quantize(quantizer, weight, configuration))


def relative_error(
    quantizer: Quantizer, weight: Tensor, configuration: LayerConfiguration
) -> float:
    """Return ‖W−W̃‖/‖W‖."""
    restored = round_trip(quantizer, weight, configuration).detach()
    wide = weight.float()
    return float(torch.linalg.norm(restored.to(wide) - wide) / torch.linalg.norm(wide))
