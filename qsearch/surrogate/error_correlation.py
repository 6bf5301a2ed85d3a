"""How alike the errors of two layer configurations are.

Two layer configurations round the same weights. Where they round alike, such as at equal bits and
block size, their errors point the same way, and so do their effects on the loss.
"""

from __future__ import annotations

import numpy as np
import torch

from qsearch._arrays import Floats
from qsearch._threads import one_thread
from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import quantize_weight
from qsearch.plugins.trainer_knobs import without_trainer_knobs
from qsearch.space.configuration import Choices

_SAMPLE_SHAPE = (128, 512)
"""Weights that are sampled: groups of up to 16,384 weights share a scale (blocks of 64, 256 scales
a group), so this holds four of the largest."""


@torch.no_grad()
def error_correlation(quantizer: Quantizer, choices: Choices | None = None) -> Floats:
    """Return the correlation of errors between layer configurations (choices × choices).

    Of a space with more knobs than the quantizer's, if its choices are given: those that are
    quantized alike have the same errors.

    With errors D_c = W̃_c − W, it is ⟨D_c, D_c'⟩ / (‖D_c‖ ‖D_c'‖); a choice without error correlates
    with itself alone. Gaussian weights stand in for the model's, whose correlations predict no
    better (docs/decisions, 0020). Inputs, for a quantizer that needs them, are uncorrelated.
    """
    weight = torch.randn(_SAMPLE_SHAPE, generator=torch.Generator().manual_seed(0))
    own = quantizer.choices().layer_configurations
    errors = torch.empty(len(own), weight.numel())
    moment = torch.eye(weight.shape[1])
    with one_thread():
        for error, choice in zip(errors, own, strict=True):
            quantized = quantize_weight(quantizer, weight, choice, moment)
            error[:] = (quantizer.dequantize(quantized) - weight).flatten()
        products = (errors @ errors.T).double()
    norm = products.diagonal().sqrt()
    broken = (~norm.isfinite()).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"quantizer {quantizer.name!r} gives weights that are not finite under"
            f" {quantizer.choices().layer_configuration(broken[0])!r}"
        )
    lossless = norm == 0
    norm[lossless] = 1.0
    result = np.asarray((products / norm[:, None] / norm[None, :]).numpy(), dtype=np.float64)
    np.fill_diagonal(result, 1.0)
    if choices is None or choices.size == len(own):
        return result
    names = quantizer.choices().names
    places = [
        quantizer.choices().index(without_trainer_knobs(names, one))
        for one in choices.layer_configurations
    ]
    spread: Floats = result[np.ix_(places, places)]
    return spread
