"""Writing one configuration's model in the forms that others load."""

from collections.abc import Callable, Sequence
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch_coalora.export.adapter import export_adapter
from qsearch_coalora.export.compressed_tensors import export_compressed_tensors
from qsearch_coalora.export.engines import require_integers
from qsearch_coalora.export.gguf import export_gguf
from qsearch_coalora.export.job import Exporter, ExportJob, packable, plain_state
from qsearch_coalora.export.merged import export_merged
from qsearch_coalora.export.packed import export_packed, export_packed_base

EXPORTERS: dict[str, Exporter] = {
    "adapter": export_adapter,
    "packed": export_packed,
    "packed-base": export_packed_base,
    "merged": export_merged,
    "compressed-tensors": export_compressed_tensors,
    "gguf": export_gguf,
}
"""Writers by the name of their format."""

_CHECKS: dict[str, Callable[[Quantizer, str], object]] = {
    "packed": packable,
    "packed-base": packable,
    "compressed-tensors": require_integers,
    "gguf": require_integers,
}
"""What formats ask of a quantizer; each raises InputError."""

WHOLE_MODELS = ("packed", "merged")
"""Formats that hold weights and adapter together."""

__all__ = [
    "EXPORTERS",
    "WHOLE_MODELS",
    "ExportJob",
    "Exporter",
    "plain_state",
    "require_format",
    "write_export",
]


def require_format(quantizer: Quantizer, format: str, formats: Sequence[str]) -> None:
    """Check what can be told of an export before its model is loaded.

    Args:
        quantizer: The study's quantizer.
        format: Name of the format.
        formats: Those of :data:`EXPORTERS` that the trainer has.

    Raises:
        InputError: If the format is none of these, or cannot hold what the quantizer makes.
    """
    if format not in formats:
        raise InputError(f"no export format {format!r}; this trainer has {list(formats)}")
    if format in _CHECKS:
        _CHECKS[format](quantizer, format)


def write_export(job: ExportJob, directory: Path, format: str) -> None:
    """Write one format of a job into a folder.

    Args:
        job: What is exported.
        directory: Where to; it is created if missing.
        format: Name of the format, which :func:`require_format` has let pass.

    Raises:
        InputError: If the format cannot hold the job.
    """
    directory.mkdir(parents=True, exist_ok=True)
    job.adapted.weights.restore()  # Dequantized weights of all layers are a second float model.
    EXPORTERS[format](job, directory)
