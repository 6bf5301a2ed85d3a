"""What a user says of the types that an export stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from qsearch.errors import InputError
from qsearch.plugins.exporters import Exporter, ExportJob, Storage
from qsearch.plugins.formats import formats_with_adapter_bits

OWN_TYPE = "auto"
DTYPES = (OWN_TYPE, "bfloat16", "float16", "float32")
ADAPTER_BITS = (8,)


@dataclass(frozen=True)
class StorageOptions:
    """The options ``--dtype`` and ``--adapter-bits`` of an export.

    Args:
        dtype: ``auto`` is the checkpoint's own 16-bit type, else bfloat16.
        adapter_bits: 8, or None for an adapter as the study says, by default of that type.
    """

    dtype: str = OWN_TYPE
    adapter_bits: int | None = None

    def require(self, exporter: Exporter, format: str) -> None:
        """Check that they are options, and that a format can store them.

        Raises:
            InputError: If not.
        """
        if self.dtype not in DTYPES:
            raise InputError(f"--dtype {self.dtype!r}: must be one of {', '.join(DTYPES)}")
        bits = self.adapter_bits
        if bits is None:
            return
        if bits not in ADAPTER_BITS:
            raise InputError(
                f"--adapter-bits {bits}: must be {', '.join(map(str, ADAPTER_BITS))}; without it"
                " the adapter is stored in the type of --dtype"
            )
        if bits not in _codes_of(exporter):
            raise InputError(
                f"--adapter-bits {bits}: the format {format!r} does not store an adapter in codes;"
                f" formats that do: {', '.join(formats_with_adapter_bits(bits))}"
            )

    def job(self, job: ExportJob, exporter: Exporter | None = None) -> ExportJob:
        """Return a job that is stored so.

        An adapter is in the codes that the study says, if the exporter can store it so.

        Raises:
            InputError: If an adapter of some bits is asked for, and there is none.
        """
        if self.adapter_bits is not None and not job.has_adapter:
            raise InputError(
                f"--adapter-bits {self.adapter_bits}: this study's configurations have no adapter"
            )
        import torch

        dtype = job.storage.dtype if self.dtype == OWN_TYPE else getattr(torch, self.dtype)
        bits, codes = self.adapter_bits, _codes_of(exporter)
        if bits is None and codes and job.has_adapter and job.storage.adapter_bits in codes:
            bits = job.storage.adapter_bits
        return with_answers(job, {"storage": Storage(dtype, bits)})


DEFAULT_STORAGE = StorageOptions()


def _codes_of(exporter: Exporter | None) -> tuple[int, ...]:
    """Return the bits of adapters in codes that an exporter can store."""
    bits: tuple[int, ...] = getattr(exporter, "adapter_bits", ())
    return bits


def with_answers(job: ExportJob, answers: Mapping[str, Any]) -> ExportJob:
    """Return a job that gives some answers, and leaves the others to another job."""
    return cast(ExportJob, _Answering(job, dict(answers)))


class _Answering:
    def __init__(self, job: ExportJob, answers: dict[str, Any]) -> None:
        self._job = job
        vars(self).update(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)
