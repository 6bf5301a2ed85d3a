"""What inference engines ask of a configuration before it is exported to them."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch_quantizers.packed.tensor_files import planned

from qsearch.errors import InputError
from qsearch.models.discovery import discover_layers
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.tensor_layout import IntegerWeight, PackableQuantizer, SupportsIntegers
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import FUSED_ROLES, LayerSpec, tied_groups
from qsearch_coalora.models.loading import skeleton


def fused_layers(layers: Sequence[LayerSpec]) -> list[list[str]]:
    """Return the names of layers which engines fuse into one matrix, by matrix."""
    groups = tied_groups(layers, FUSED_ROLES)
    return [[layers[position].name for position in group.members] for group in groups]


def require_fused_alike(job: ExportJob, format: str) -> None:
    """Raise InputError unless layers which engines fuse into one matrix are quantized alike."""
    # Of all layers: one that the study leaves in float is unlike one that it quantizes.
    config = getattr(job.module, "config", None)
    layers = discover_layers(skeleton(config, job.model)) if config else tuple(job.layers)
    chosen = {one.name: dict(job.configuration.get(one.name, {})) for one in layers}
    unlike = [
        members
        for members in fused_layers(layers)
        if any(chosen[name] != chosen[members[0]] for name in members)
    ]
    if unlike:
        shown = "; ".join(
            ", ".join(f"{name} {chosen[name] or 'not quantized'}" for name in members)
            for members in unlike[:2]
        )
        rest = len(unlike) - 2
        more = f"; and {rest} more {'group' if rest == 1 else 'groups'}" if rest > 0 else ""
        raise InputError(
            f"--format {format}: inference engines fuse layers that this configuration quantizes"
            f" differently: {shown}{more}; search with space.tied: fused"
        )


def require_fused_together(
    layers: Sequence[LayerSpec], space: ConfigurationSpace, format: str
) -> None:
    """Refuse layers that engines fuse, and that a configuration may quantize differently."""
    alike: dict[str, object] = {
        space.layers[member].name: group.name for group in space.groups for member in group.members
    }
    alike |= space.pinned
    apart = [n for n in fused_layers(layers) if len({alike.get(name) for name in n}) > 1]
    if apart:
        partly = [name for name in apart[0] if name not in alike]
        shown = ", ".join(repr(name) for name in apart[0])
        more = f", and so in {len(apart) - 1} more places" if len(apart) > 1 else ""
        is_pinned = any(name in space.pinned for name in apart[0])
        remedy = (
            f"have model.layers name {', '.join(map(repr, partly))} too, or none of them"
            if partly
            else "pin them together by space.fixed, and alike"
            if is_pinned
            else "search with space.tied: fused"
        )
        raise InputError(
            f"--format {format}: inference engines fuse {shown}{more}, which a configuration may"
            f" quantize differently; {remedy}"
        )


def require_integers(quantizer: Quantizer, format: str) -> SupportsIntegers:
    """Return a quantizer if its weights are integers on a grid.

    Raises:
        InputError: If they are not.
    """
    if not isinstance(quantizer, SupportsIntegers):
        raise InputError(
            f"--format {format} holds integers with a scale for each group; the weights of"
            f" quantizer {quantizer.name!r} are not integers; quantizers such as 'integer' are"
            " for it"
        )
    return quantizer


def planned_integers(job: ExportJob, position: int, format: str) -> IntegerWeight:
    """Return a layer's integers without values: their shapes and types, on the meta device.

    Raises:
        InputError: If the quantizer's weights are no integers, or it does not say their shapes.
    """
    quantizer = job.quantizer
    integers = require_integers(quantizer, format)
    layer = job.layers[position]
    chosen = job.configuration[layer.name]
    return integers.as_integers(planned_weight(quantizer, layer, chosen, format))


def planned_weight(
    quantizer: Quantizer, layer: LayerSpec, configuration: LayerConfiguration, format: str
) -> QuantizedTensor:
    """Return a layer's quantized weight without values: on the meta device.

    Raises:
        InputError: If the quantizer does not say its shapes.
    """
    if not isinstance(quantizer, PackableQuantizer):
        raise InputError(f"--format {format}: quantizer {quantizer.name!r} has no layout()")
    layouts = quantizer.layout(layer.shape, configuration)
    tensors = {name: planned(layout.shape, layout.dtype) for name, layout in layouts.items()}
    return QuantizedTensor(tensors, layer.shape, configuration)
