"""What vLLM loads of the format ``compressed-tensors``, by its version :data:`VERSION`.

Rules are those of its reader, whatever the hardware. Kernels differ by hardware, so that these are
told and nothing is refused for them.
"""

from __future__ import annotations

from collections.abc import Iterable

from qsearch.errors import InputError
from qsearch.space.layers import EMBEDDING, LayerSpec
from qsearch_coalora.export.compressed_tensors_config import FORMAT, WeightScheme

VERSION = "0.32"

_WORD = 32
_SHOWN = 3
_LOOKED_UP_BITS = (2, 4, 8)


def problem(layer: LayerSpec, scheme: WeightScheme, is_fused: bool, has_head: bool) -> str | None:
    """Return why vLLM could not load a layer, as an end of a sentence, or None if it can.

    A layer may be fused with others into one matrix; an embedding may have an output head next to
    it, with a weight of its own.
    """
    rows, columns = layer.shape
    if scheme.group_size and columns % scheme.group_size:
        return f"has {columns} input features, which groups of {scheme.group_size} do not divide"
    if layer.role == EMBEDDING:
        if not has_head:
            return (
                "is an embedding without an output head of its own, which engines read in float"
                " alone (space.embeddings)"
            )
        if scheme.is_float or not scheme.symmetric or scheme.bits not in _LOOKED_UP_BITS:
            return (
                "is an embedding, whose rows engines look up of symmetric integers of 2, 4 or 8"
                f" bits, not of {scheme}"
            )
        if columns * scheme.bits % _WORD:
            return f"is an embedding whose rows of {columns} codes are not whole words of 32 bits"
    if is_fused and not scheme.symmetric and rows * scheme.bits % _WORD:
        return (
            f"has {rows} output features, whose zero points of {scheme.bits} bits are not whole"
            " words of 32 bits, so that engines cannot fuse it with others"
        )
    return None


def require_loadable(problems: Iterable[tuple[str, str]], remedy: str) -> None:
    """Raise InputError if there are any problems: (name of a layer, why it is not loaded)."""
    names: dict[str, list[str]] = {}
    for name, reason in problems:
        of_reason = names.setdefault(reason, [])
        if name not in of_reason:
            of_reason.append(name)
    if names:
        raise InputError(
            f"--format {FORMAT}: "
            + "; ".join(f"{_layers(each)} {reason}" for reason, each in names.items())
            + f"; {remedy}"
        )


def kernel_notes(layers: Iterable[tuple[LayerSpec, WeightScheme]]) -> list[str]:
    """Return what hardware vLLM has no kernel on for layers, or but those of another package."""
    without: dict[str, list[str]] = {}
    for layer, scheme in layers:
        for hardware in _missing(layer, scheme):
            kinds = without.setdefault(hardware, [])
            kind = f"{scheme.bits} bits {'floating point' if scheme.is_float else ''}".strip()
            kind += "" if scheme.symmetric else " asymmetric"
            if kind not in kinds:
                kinds.append(kind)
    return [f"vLLM {VERSION} {text.format(', '.join(kinds))}" for text, kinds in without.items()]


_CPU = "has no kernel on CPUs for {}"
_HUMMING = "runs {} on NVIDIA GPUs alone, by the package humming-kernels"


def _missing(layer: LayerSpec, scheme: WeightScheme) -> Iterable[str]:
    on_cpu = scheme.bits == 4 and not any(features % 32 for features in layer.shape)
    if not on_cpu:
        yield _CPU
    by_marlin = scheme.is_float or scheme.bits == 4 or (scheme.bits == 8 and scheme.symmetric)
    if not by_marlin:
        yield _HUMMING


def _layers(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    rest = len(names) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"layer {shown}" if len(names) == 1 else f"layers {shown}{more}: each"
