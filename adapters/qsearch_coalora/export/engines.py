"""What inference engines ask of a configuration before it is exported to them."""

from __future__ import annotations

from qsearch.errors import InputError
from qsearch.models.discovery import discover_layers
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.tensor_layout import SupportsIntegers
from qsearch.space.layers import FUSED_ROLES, tied_groups
from qsearch_coalora.models.loading import skeleton


def require_fused_alike(job: ExportJob, format: str) -> None:
    """Raise InputError unless layers which engines fuse into one matrix are quantized alike."""
    # Of all layers: one that the study leaves in float is unlike one that it quantizes.
    layers = discover_layers(skeleton(job.module.config, job.model))
    chosen = {one.name: dict(job.configuration.get(one.name, {})) for one in layers}
    unlike = []
    for group in tied_groups(layers, FUSED_ROLES):
        members = [layers[position].name for position in group.members]
        if any(chosen[name] != chosen[members[0]] for name in members):
            unlike.append(members)
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
