"""The contract of exporters: what they say of themselves, what they get, and what they write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:  # An exporter is asked for at once, and torch takes a second.
    from pathlib import Path

    import torch
    from torch import Tensor

    from qsearch.plugins.protocols import QuantizedTensor, Quantizer
    from qsearch.space.configuration import Configuration
    from qsearch.space.layers import LayerSpec
    from qsearch.spec.sections import ModelSpec


@dataclass(frozen=True)
class Storage:
    """In which types an export stores what is not quantized.

    Args:
        dtype: Of the model's floating-point tensors, and of the adapter.
        adapter_bits: 8 for an adapter in codes, which only formats that say so are asked for.
    """

    dtype: torch.dtype
    adapter_bits: int | None = None


class ExportJob(Protocol):
    """What an exporter gets: one configuration under a trainer's state, ready to be written.

    What quantizable layer ``position`` computes from inputs x is x·(W̃ + B·A)ᵀ and its bias, where
    W̃ is the dequantized :meth:`quantized` weight, and A and B are the layer's :meth:`factors`. A
    layer of the role ``embedding`` looks rows of W̃ up, and an output head that is tied to it
    computes with W̃ too; under the head's own name, :meth:`state` has the original weight.
    Everything else is in :meth:`state`. Tensors are the trainer's own: an exporter changes none.
    """

    @property
    def configuration(self) -> Configuration:
        """The layer configurations, by :attr:`LayerSpec.name`."""
        ...

    @property
    def layers(self) -> Sequence[LayerSpec]:
        """The quantizable layers of the study."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """Each layer's module path; its weight is ``f"{path}.weight"`` in :meth:`state`."""
        ...

    @property
    def quantizer(self) -> Quantizer:
        """The study's quantizer."""
        ...

    @property
    def model(self) -> ModelSpec:
        """Which model it was."""
        ...

    @property
    def method(self) -> str:
        """What the adapter is, for readers, such as ``CoA-LoRA``."""
        ...

    @property
    def module(self) -> torch.nn.Module:
        """The model in memory: its class, and its ``config`` where it has one.

        A trainer may have wrapped some of its layers, so names and tensors are those of
        :meth:`state`.
        """
        ...

    @property
    def tokenizer(self) -> Any:
        """What the task loaded with the model, such as a tokenizer of transformers."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs; none where there are no classes."""
        ...

    @property
    def storage(self) -> Storage:
        """How to store what is not quantized: by default, in 16 bits.

        A trainer gives the checkpoint's own type where it has 16 bits, else bfloat16; an exporter
        gets what the user asks for instead. Tensors of the job have the type that the model in
        memory computes in.
        """
        ...

    @property
    def has_adapter(self) -> bool:
        """Whether there is more to a layer than its quantized weight."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the model's tensors by name: original weights, and the head as it was trained."""
        ...

    def quantized(self, position: int) -> QuantizedTensor:
        """Return a layer's quantized weight, made at this call: hold one at a time.

        Raises:
            InputError: If the weight is not one of the quantizer's.
        """
        ...

    def factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each layer's A (rank × input features) and B (output features × rank).

        B has the adapter's scaling in it. Without an adapter there are none; the rank is 0 for a
        layer that has none, such as an embedding.
        """
        ...


class Exporter(Protocol):
    """Writes a configuration in one format, which has the name of the entry point.

    Its module is imported to refuse a format at once, and for ``qsearch export --help``: import
    heavy libraries, such as torch, in :meth:`write`.
    """

    description: ClassVar[str]
    """What it writes, and who reads that, in one line without a full stop."""
    trainers: ClassVar[tuple[str, ...] | None]
    """Names of the trainers that it writes for, or None for all.

    For all, it uses nothing but what :class:`ExportJob` has. The jobs of a trainer that it names
    may have more.
    """
    quantizers: ClassVar[tuple[str, ...] | None]
    """Names of the quantizers that it writes for, or None where that depends on what they can do;
    see :class:`~qsearch.plugins.capabilities.SupportsQuantizerCheck`."""
    weight_files: ClassVar[tuple[str, ...]]
    """Suffixes of the files that hold weights, such as ``.safetensors``: their bytes are compared
    with budgets, and are in the model card. None for a recipe, which is the configuration alone;
    see :class:`~qsearch.plugins.recipes.SupportsRecipe`.

    Optional is ``adapter_bits``, a tuple: bits of adapters in codes that it can store, such as 8.
    """

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write files into an empty directory.

        The engine adds ``qsearch.json``, and the measured values to ``README.md`` if there is one.
        No file is a pickle. Equal jobs give equal files.

        Raises:
            InputError: If the format cannot hold the configuration.
        """
        ...
