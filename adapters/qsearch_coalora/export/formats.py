"""The exporters of this package: what each says of itself; what it writes is in its own module.

That is imported when it writes: it takes seconds, and a format is refused at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from qsearch.errors import InputError

if TYPE_CHECKING:
    from qsearch.plugins.exporters import ExportJob
    from qsearch.plugins.protocols import Measured, Quantizer
    from qsearch.space.configuration_space import ConfigurationSpace
    from qsearch.spec.sections import ModelSpec
    from qsearch_coalora.export.job import AdapterJob

_WITH_ADAPTER = ("composed-lora", "coa-lora", "shared-lora", "qlora")
"""Trainers whose adapter is apart from the weights, which the configuration alone determines."""


class _Format:
    """For all trainers and quantizers, in safetensors files, unless a format says otherwise."""

    trainers: ClassVar[tuple[str, ...] | None] = None
    quantizers: ClassVar[tuple[str, ...] | None] = None
    weight_files: ClassVar[tuple[str, ...]] = (".safetensors",)


class AdapterExporter(_Format):
    """See :func:`~qsearch_coalora.export.adapter.export_adapter`."""

    description = "the adapter alone, which PEFT loads"
    trainers = _WITH_ADAPTER

    def write(self, job: AdapterJob, directory: Path) -> None:
        """Write a plain PEFT adapter."""
        from qsearch_coalora.export.adapter import export_adapter

        export_adapter(job, directory)

    def weight_bytes(self, job: AdapterJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.adapter import adapter_files

        return adapter_files(job)


class PackedExporter(_Format):
    """See :func:`~qsearch_coalora.export.packed.export_packed`."""

    description = "the whole model with packed weights, which transformers loads with qsearch"
    adapter_bits: ClassVar[tuple[int, ...]] = (8,)

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that its tensors can be packed."""
        from qsearch_coalora.export.job import packable

        packable(quantizer, "packed")

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the packed model with its adapter."""
        from qsearch_coalora.export.packed import export_packed

        export_packed(job, directory)

    def weight_bytes(self, job: ExportJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.packed import plan_packed

        return plan_packed(job, "packed", job.has_adapter).checkpoint.file_bytes


class PackedBaseExporter(_Format):
    """See :func:`~qsearch_coalora.export.packed.export_packed_base`."""

    description = "packed, without its adapter"
    trainers = _WITH_ADAPTER

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that its tensors can be packed."""
        from qsearch_coalora.export.job import packable

        packable(quantizer, "packed-base")

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the packed model for adapters that PEFT loads on top."""
        from qsearch_coalora.export.packed import export_packed_base

        export_packed_base(job, directory)

    def weight_bytes(self, job: ExportJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.packed import plan_packed

        return plan_packed(job, "packed-base", False).checkpoint.file_bytes


class MergedExporter(_Format):
    """See :func:`~qsearch_coalora.export.merged.export_merged`."""

    description = "a float model that computes the same, which transformers loads"

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the float model."""
        from qsearch_coalora.export.merged import export_merged

        export_merged(job, directory)

    def weight_bytes(self, job: ExportJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.merged import plan_merged

        return plan_merged(job).file_bytes


class CompressedTensorsExporter(_Format):
    """See :func:`~qsearch_coalora.export.compressed_tensors.export_compressed_tensors`."""

    description = "integers or 8-bit floats, and the adapter, which vLLM and transformers load"
    trainers = (*_WITH_ADAPTER, "ptq")

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that its weights are integers or 8-bit floats."""
        from qsearch_coalora.export.engines import require_integers

        require_integers(quantizer, "compressed-tensors")

    def require_space(
        self, model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace
    ) -> list[str]:
        """Check that engines load every configuration of a space."""
        from qsearch_coalora.export.compressed_tensors_space import require_space

        return require_space(model, quantizer, space)

    def write(self, job: AdapterJob, directory: Path) -> None:
        """Write the model, and an adapter in a folder inside."""
        from qsearch_coalora.export.compressed_tensors import export_compressed_tensors

        export_compressed_tensors(job, directory)

    def weight_bytes(self, job: AdapterJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.compressed_tensors import compressed_tensors_files

        return compressed_tensors_files(job)


class GGUFExporter(_Format):
    """See :func:`~qsearch_coalora.export.gguf.export_gguf`."""

    description = "a causal language model, and its adapter, which llama.cpp loads"
    trainers = (*_WITH_ADAPTER, "lq-lora", "ptq")
    weight_files = (".gguf",)

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that ggml has types for its weights."""
        from qsearch_coalora.export.ggml_weights import require_ggml_types

        require_ggml_types(quantizer, "gguf")

    def require_task(self, task: Measured) -> None:
        """Check that its models predict tokens."""
        from qsearch_coalora.models.loading import CAUSAL, HEADLESS

        if getattr(task, "auto_class", HEADLESS) != CAUSAL:
            raise InputError(
                f"--format gguf is for causal language models; task {task.name!r} loads another"
                " model, whose head the file would lack"
            )

    def require_space(
        self, model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace
    ) -> list[str]:
        """Check that llama.cpp runs every configuration of a space."""
        from qsearch_coalora.export.gguf_space import require_space

        return require_space(model, quantizer, space)

    def write(self, job: AdapterJob, directory: Path) -> None:
        """Write the model, and the adapter if there is one, as GGUF files."""
        from qsearch_coalora.export.gguf import export_gguf

        export_gguf(job, directory)

    def weight_bytes(self, job: AdapterJob) -> dict[str, int]:
        """Return the bytes of each file with weights."""
        from qsearch_coalora.export.gguf import gguf_files

        return gguf_files(job)
