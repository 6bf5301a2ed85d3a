"""The export formats: what writes each, and what it asks of a quantizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch_coalora.export.engines import require_integers
from qsearch_coalora.export.job import ExportJob, packable

FORMATS = ("adapter", "packed", "packed-base", "merged", "compressed-tensors", "gguf")
"""All formats; ``packed-base`` is written by ``export_packed_base`` of the module ``packed``."""

_CHECKS: dict[str, Callable[[Quantizer, str], object]] = {
    "packed": packable,
    "packed-base": packable,
    "compressed-tensors": require_integers,
    "gguf": require_integers,
}
"""What formats ask of a quantizer; each raises InputError."""

WHOLE_MODELS = ("packed", "merged")
"""Formats that hold weights and adapter together."""


def require_format(quantizer: Quantizer, format: str, formats: Sequence[str]) -> None:
    """Check what can be known of an export before its model is loaded.

    Raises:
        InputError: If the format is none of these, or cannot hold what the quantizer makes.
    """
    if format not in formats:
        raise InputError(f"no export format {format!r}; this trainer has {list(formats)}")
    if format in _CHECKS:
        _CHECKS[format](quantizer, format)


def write_export(job: ExportJob, directory: Path, format: str) -> None:
    """Write one format, which :func:`require_format` has let pass, into a folder.

    Raises:
        InputError: If the format cannot hold the job.
    """
    directory.mkdir(parents=True, exist_ok=True)
    job.adapted.weights.restore()  # Dequantized weights of all layers are a second float model.
    name = format.replace("-", "_")
    module = import_module(f"qsearch_coalora.export.{name.removesuffix('_base')}")
    export: Callable[[ExportJob, Path], None] = getattr(module, f"export_{name}")
    export(job, directory)
