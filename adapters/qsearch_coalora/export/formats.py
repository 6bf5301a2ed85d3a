"""The export formats: what writes each, and what it asks of a quantizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch_coalora.export.adapter import export_adapter
from qsearch_coalora.export.compressed_tensors import export_compressed_tensors
from qsearch_coalora.export.engines import require_integers
from qsearch_coalora.export.gguf import export_gguf
from qsearch_coalora.export.job import ExportJob, packable
from qsearch_coalora.export.merged import export_merged
from qsearch_coalora.export.packed import export_packed, export_packed_base

EXPORTERS: dict[str, Callable[[ExportJob, Path], None]] = {
    "adapter": export_adapter,
    "packed": export_packed,
    "packed-base": export_packed_base,
    "merged": export_merged,
    "compressed-tensors": export_compressed_tensors,
    "gguf": export_gguf,
}
"""By the name of a format, what writes a job into an existing, empty folder."""

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
    EXPORTERS[format](job, directory)
