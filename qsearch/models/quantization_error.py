"""Relative squared quantization error of every layer under every layer configuration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch._threads import one_thread
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsLayers, quantize_weight
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec

SAMPLE_WEIGHTS = 2_000_000
"""Weights sampled from the whole model."""

_ALIGNMENT = 2**14
"""Weights that no usual scale group exceeds (blocks of 64, 256 scales a group)."""


@torch.no_grad()
@one_thread()
def quantization_errors(
    weights: Sequence[Tensor],
    quantizer: Quantizer,
    layer_configurations: Sequence[LayerConfiguration],
    sample_weights: int = SAMPLE_WEIGHTS,
    moments: Sequence[Tensor | None] | None = None,
    layers: Sequence[LayerSpec | None] | None = None,
) -> npt.NDArray[np.float64]:
    """Measure ‖W−W̃‖²/‖W‖² (layers × layer configurations) on whole rows of each weight.

    Rows of layers with the same input features, and the same moment of them, are quantized in one
    call. Their number is such that groups of up to 16,384 weights do not straddle two layers, where
    the sample is large enough for that.

    Moments of the inputs (input features × input features) are one object for layers that read the
    same inputs, and None where they were not measured. A quantizer that asks for the layers is
    called for each by itself.
    """
    moments = moments or [None] * len(weights)
    if layers is None or not isinstance(quantizer, SupportsLayers):
        layers = [None] * len(weights)
    limit = max(sample_weights // len(weights), 1)
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, weight in enumerate(weights):
        key = (weight.shape[1], weight.device, id(moments[position]), layers[position])
        alike[key].append(position)
    errors = np.zeros((len(weights), len(layer_configurations)))
    for positions in alike.values():
        moment, layer = moments[positions[0]], layers[positions[0]]
        samples = [_sample_rows(weights[position], limit) for position in positions]
        sizes = [len(sample) for sample in samples]
        joined = torch.cat(samples)
        norms = torch.stack([sample.double().square().sum() for sample in samples])
        for column, configuration in enumerate(layer_configurations):
            quantized = quantize_weight(quantizer, joined, configuration, moment, layer)
            difference = quantizer.dequantize(quantized)
            squared = difference.sub_(joined).square_().sum(dim=1, dtype=torch.float64)
            sums = torch.stack([part.sum() for part in torch.split(squared, sizes)])
            errors[positions, column] = (sums / norms.clamp_min(1e-30)).cpu().numpy()
    return errors


def _sample_rows(weight: Tensor, limit: int) -> Tensor:
    rows, width = weight.shape
    count = min(rows, max(limit // width, 1))
    aligned = _ALIGNMENT // np.gcd(_ALIGNMENT, width)
    if count >= aligned:
        count -= count % aligned
    elif count < rows:
        count = 2 ** int(np.log2(count))
    positions = torch.linspace(0, rows - 1, count).round().long().to(weight.device)
    return weight[positions]
