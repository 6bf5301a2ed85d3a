"""Whether engines load every configuration of a space, told before a study runs."""

from __future__ import annotations

from collections.abc import Iterator

from qsearch.plugins.protocols import Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import HEAD, LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.export.compressed_tensors_config import (
    FORMAT,
    WeightScheme,
    engine_weight,
    scheme_of,
)
from qsearch_coalora.export.engines import (
    fused_layers,
    planned_weight,
    require_fused_together,
)
from qsearch_coalora.export.vllm import kernel_notes, problem, require_loadable
from qsearch_coalora.models.loading import load_shape


def require_space(model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace) -> list[str]:
    """Check that the format compressed-tensors holds every configuration of a space.

    Returns:
        On which hardware vLLM has no kernels for some of them.

    Raises:
        InputError: If it does not; the message names the layers.
    """
    require_fused_together(load_shape(model)[0].layers, space, FORMAT)
    fused = {name for names in fused_layers(space.layers) if len(names) > 1 for name in names}
    has_head = any(layer.role == HEAD for layer in space.layers)
    pairs = list(_possible(quantizer, space))
    reasons = (
        (layer.name, problem(layer, scheme, layer.name in fused, has_head))
        for layer, scheme in pairs
    )
    require_loadable(
        ((name, reason) for name, reason in reasons if reason),
        "leave such choices out of the quantizer's options, or such layers out of the study",
    )
    return kernel_notes(pairs)


def _possible(
    quantizer: Quantizer, space: ConfigurationSpace
) -> Iterator[tuple[LayerSpec, WeightScheme]]:
    """Yield each layer with the scheme of each layer configuration that it may have."""
    schemes: dict[tuple[tuple[int, int], LayerConfiguration], WeightScheme] = {}
    for layer, one in space.choices_of_layers():
        key = (layer.shape, one)
        if key not in schemes:
            planned = planned_weight(quantizer, layer, one, FORMAT)
            schemes[key] = scheme_of(engine_weight(quantizer, planned))
        yield layer, schemes[key]
